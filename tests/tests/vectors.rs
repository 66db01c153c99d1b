//! The vectors as files: each fits its schema, and the index names them as they are.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::workspace;
use jsonschema::Validator;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

fn read(file: &str) -> Value {
    let text = fs::read_to_string(workspace("spec-vectors").join(file)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The schema of a file: its own definition, or that of the hand-made files.
fn schema_of(suite: &str) -> Validator {
    let schema = read("schema.json");
    let own = schema["$defs"].get(suite).is_some();
    let definition = format!("#/$defs/{}", if own { suite } else { "hand_made" });
    jsonschema::validator_for(&json!({"$ref": definition, "$defs": schema["$defs"]})).unwrap()
}

fn suites() -> Vec<Value> {
    read("index.json")["suites"].as_array().unwrap().clone()
}

#[test]
fn every_file_fits_its_schema() {
    let names = suites().into_iter().map(|suite| suite["suite"].as_str().unwrap().to_owned());
    for name in names.chain(["index".to_owned()]) {
        let file = read(&format!("{name}.json"));
        let errors: Vec<String> = schema_of(&name)
            .iter_errors(&file)
            .take(5)
            .map(|error| format!("{}: {error:.300}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{name}.json:\n{}", errors.join("\n"));
    }
}

#[test]
fn the_index_names_every_file_once() {
    let listed: BTreeSet<String> =
        suites().iter().map(|suite| suite["file"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed.len(), suites().len());
    let entries = fs::read_dir(workspace("spec-vectors")).unwrap().map(|entry| entry.unwrap().file_name());
    let files =
        entries.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.ends_with(".json"));
    let files: BTreeSet<String> =
        files.filter(|name| name != "index.json" && name != "schema.json").collect();
    assert_eq!(files, listed);
}

#[test]
fn counts_and_hashes_of_the_index_are_those_of_the_files() {
    let mut cases = 0;
    for suite in suites() {
        let file = suite["file"].as_str().unwrap();
        let document = read(file);
        let listed = document["cases"].as_array().unwrap();
        // Files that were made with the SDK may be replaced by others of their kind.
        if listed.iter().any(|case| case.get("op").is_some()) {
            let bytes = fs::read(workspace("spec-vectors").join(file)).unwrap();
            assert_eq!(
                suite["sha256"],
                hex::encode(Sha256::digest(bytes)),
                "{file}: run cargo xtask vectors"
            );
            assert_eq!(suite["count"], listed.len(), "{file}");
            assert_eq!(suite["about"], document["about"], "{file}");
            cases += listed.len();
        }
    }
    assert!(cases > 1000, "{cases} cases");
}

#[test]
fn the_schema_rejects_what_is_no_vector() {
    let schema = schema_of("frames");
    let case = json!({
        "name": "a", "section": "frame 2.4", "op": "decode_frame", "input": {"message": "4156"},
        "expect": {"error": "frame.truncated"}
    });
    let suite = |case: &Value| json!({"about": "", "cases": [case]});
    assert!(schema.is_valid(&suite(&case)));
    let wrong = [
        ("/section", json!("frame 2")),
        ("/name", json!("a b")),
        ("/op", json!("decode")),
        ("/input", json!({"message": "415"})),
        ("/input", json!({"message": "4156", "profile": "strict"})),
        ("/expect", json!({"error": "truncated"})),
        ("/expect", json!({"ok": {"flags": 0}})),
        ("/expect", json!({"strict": {"error": "frame.truncated"}})),
    ];
    for (field, value) in wrong {
        let mut other = case.clone();
        *other.pointer_mut(field).unwrap() = value;
        assert!(!schema.is_valid(&suite(&other)), "{other}");
    }
    assert!(!schema.is_valid(&json!({"about": "", "cases": []})));
}
