//! The hand-made vectors: cases of an operation, its input and what it must give (spec-vectors/README.md).
//! The tests of avp-handshake use this file too.

use std::path::PathBuf;

use serde_json::{Value, json};

/// Operations whose answer may depend on the profile, and which are run in each.
const WITH_PROFILE: [&str; 4] = ["decode_frame", "decode_stream", "read_context", "reassemble"];

/// What an operation gives: its result, or the name of an error code.
pub(crate) type Answer = Result<Value, String>;

/// Runs every hand-made case of `op` through `answer`, which gets operation, input and profile, and fails with all
/// disagreements. At least `least` cases must be there.
pub(crate) fn check(op: &str, least: usize, answer: impl Fn(&str, &Value, &str) -> Answer) {
    let (mut count, mut wrong) = (0, Vec::new());
    let profiles: &[&str] =
        if WITH_PROFILE.contains(&op) { &["strict", "default", "lenient"] } else { &["default"] };
    for (suite, case) in hand_made().iter().filter(|(_, case)| case["op"] == op) {
        count += 1;
        for &profile in profiles {
            let mut expect = &case["expect"];
            let mut got = answer(op, &case["input"], profile);
            if let (Some(then), Ok(made)) = (case.get("then"), &got) {
                expect = &then["expect"];
                got = answer(text(&then["op"]), made, text(&then["profile"]));
            }
            let expect = if expect.get("strict").is_some() { &expect[profile] } else { expect };
            if !agrees(expect, &got) {
                let (name, section) = (&case["name"], &case["section"]);
                wrong.push(format!("{suite} {name} ({section}) {profile}:\n  got {got:?}\n  not {expect}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} disagree:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count >= least, "{count} cases of {op}");
}

/// Every case that has an operation, with the name of its suite.
fn hand_made() -> Vec<(String, Value)> {
    let index = read("index.json");
    let suites = index["suites"].as_array().expect("the index lists suites");
    let mut out = Vec::new();
    for suite in suites {
        let file = read(suite["file"].as_str().expect("a suite has a file"));
        let cases = file["cases"].as_array().expect("a suite has cases");
        let name = suite["suite"].as_str().expect("a suite has a name");
        out.extend(
            cases.iter().filter(|case| case.get("op").is_some()).map(|case| (name.to_owned(), case.clone())),
        );
    }
    out
}

/// A file of `spec-vectors/`.
pub(crate) fn read(file: &str) -> Value {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "spec-vectors", file].iter().collect();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn agrees(expect: &Value, got: &Answer) -> bool {
    match got {
        Ok(value) => expect.get("ok").is_some_and(|ok| covers(ok, value)),
        Err(code) => match &expect["error"] {
            Value::Array(codes) => codes.contains(&json!(code)),
            only => *only == json!(code),
        },
    }
}

/// Whether `got` has every field that is expected; lists and `extra` are compared as a whole.
fn covers(expect: &Value, got: &Value) -> bool {
    match (expect, got) {
        (Value::Object(expect), Value::Object(got)) => expect.iter().all(|(field, value)| {
            got.get(field).is_some_and(|got| if field == "extra" { got == value } else { covers(value, got) })
        }),
        (Value::Array(expect), Value::Array(got)) => {
            expect.len() == got.len() && expect.iter().zip(got).all(|(expect, got)| covers(expect, got))
        }
        _ => expect == got,
    }
}

/// Bytes as a case states them: hex, one byte repeated, or pieces of these.
pub(crate) fn bytes(stated: &Value) -> Vec<u8> {
    match (stated, stated.get("repeat"), stated.get("concat")) {
        (Value::String(text), _, _) => hex::decode(text).expect("bytes are hex"),
        (_, Some(unit), _) => bytes(unit).repeat(usize::try_from(number(&stated["times"])).expect("times")),
        (_, _, Some(Value::Array(pieces))) => pieces.iter().flat_map(bytes).collect(),
        _ => panic!("{stated} are no bytes"),
    }
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
