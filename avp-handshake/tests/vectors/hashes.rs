use avp_handshake::json::{Json, Key};
use avp_handshake::{ModelIdentity, model_hash, tokenizer_hash};
use serde_json::Value;

use crate::{cases, identity, python, text};

/// Cases about Python objects that are no data: a tokenizer object, and an object that is none.
const NOT_DATA: [&str; 2] = ["tok_object_with_get_vocab", "tok_unsupported_object"];

#[test]
fn every_case_of_hashes_json_is_of_a_kind_that_is_tested_here() {
    for case in cases("hashes.json") {
        let known = case.get("input_python").is_some()
            || case.get("vocab").is_some()
            || case.get("config").is_some()
            || NOT_DATA.contains(&text(&case, "name"));
        assert!(known, "{}", case["name"]);
    }
}

// spec: handshake 2.1
#[test]
fn model_hashes_equal_the_sdks() {
    let mut count = 0;
    for case in cases("hashes.json").iter().filter(|case| case.get("input_python").is_some()) {
        let config = python::parse(text(case, "input_python"));
        assert_eq!(config.to_canonical(), text(case, "canonical"), "{}", case["name"]);
        assert_eq!(model_hash(&config), text(case, "sha256"), "{}", case["name"]);
        count += 1;
    }
    assert!(count >= 30, "{count} cases");
}

#[test]
fn a_config_read_from_its_canonical_text_hashes_alike() {
    for case in cases("hashes.json").iter().filter(|case| case.get("input_python").is_some()) {
        let config = Json::parse(text(case, "canonical").as_bytes()).unwrap();
        // Numbers as keys sort by value, their strings do not: what Python hashes there is not what a file gives.
        let number_keys = matches!(python::parse(text(case, "input_python")), Json::Object(entries)
            if entries.iter().any(|(_, value)| matches!(value, Json::Object(inner)
                if inner.iter().any(|(key, _)| matches!(key, Key::Int(_) | Key::Float(_))))));
        if !number_keys {
            assert_eq!(model_hash(&config), text(case, "sha256"), "{}", case["name"]);
        }
    }
}

// spec: handshake 2.2
#[test]
fn tokenizer_hashes_equal_the_sdks() {
    let mut count = 0;
    for case in cases("hashes.json") {
        let hash = match case.get("vocab") {
            Some(Value::Object(vocab)) => {
                tokenizer_hash(vocab.iter().map(|(t, id)| (t, id.as_i64().unwrap())))
            }
            Some(Value::String(_)) => {
                assert_eq!(text(&case, "name"), "tok_generated_5000", "another generated vocabulary");
                tokenizer_hash((0..5000u32).map(|i| (generated_token(i), i)))
            }
            _ => continue,
        };
        assert_eq!(hash, text(&case, "sha256"), "{}", case["name"]);
        count += 1;
    }
    assert!(count >= 6, "{count} cases");
}

fn generated_token(i: u32) -> String {
    let mark = if i.is_multiple_of(3) { '\u{2581}' } else { '\u{120}' };
    format!("tok_{i}_{mark}{}", char::from_u32(0x4e00 + i).unwrap())
}

// spec: handshake 8.1, handshake 8.2
#[test]
fn identities_equal_the_sdks() {
    let mut count = 0;
    for case in cases("hashes.json").iter().filter(|case| case.get("config").is_some()) {
        // serde_json keeps 1e-06 and 0.0 as floats and the integers as integers, so nothing is lost on the way.
        let config = Json::from(&case["config"]);
        let found = ModelIdentity::from_config(&config).unwrap();
        assert_eq!(found, identity(&case["identity"]), "{}", case["name"]);
        let text = config.to_text();
        assert_eq!(ModelIdentity::from_config_json(text.as_bytes()).unwrap(), found, "{}", case["name"]);
        count += 1;
    }
    assert!(count >= 4, "{count} cases");
}
