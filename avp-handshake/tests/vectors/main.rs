//! Hashing, identity, hello and resolution give what the reference SDK gives (`spec-vectors/`).

mod hand_made;
mod hashes;
mod messages;
mod python;
mod resolve;
#[path = "../../../avp-wire/tests/vectors/suite.rs"]
mod suite;

use serde_json::Value;

/// The cases of a vector file.
fn cases(file: &str) -> Vec<Value> {
    let path = format!(concat!(env!("CARGO_MANIFEST_DIR"), "/../spec-vectors/{}"), file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut document: Value = serde_json::from_str(&text).unwrap();
    match document["cases"].take() {
        Value::Array(cases) if !cases.is_empty() => cases,
        _ => panic!("{path} has no cases"),
    }
}

/// A text field of a case.
fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("{}: no text in {field}", case["name"]))
}

fn identity(value: &Value) -> avp_handshake::ModelIdentity {
    avp_handshake::ModelIdentity::from_json(&value.into()).unwrap()
}
