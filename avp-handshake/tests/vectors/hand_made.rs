//! The suites made by hand: each operation on our types, its result in the form of the vectors.

mod script;

use avp_handshake::fingerprint::Fingerprint;
use avp_handshake::json::Json;
use avp_handshake::{
    Hello, MessageError, ModelIdentity, ResolveOptions, TextMessage, VerificationPolicy, model_hash, resolve,
    tokenizer_hash,
};
use avp_wire::ErrorCode;
use serde_json::{Value, json};

use crate::identity;
use crate::suite::{Answer, bytes, check, number, text};

#[test]
fn hellos_and_texts_are_read_and_written_as_the_specification_says() {
    check("hello", 190, answer);
    check("text_message", 25, answer);
}

#[test]
fn hashes_and_identities_are_those_of_the_specification() {
    check("hash_model", 25, answer);
    check("hash_tokenizer", 5, answer);
    check("fingerprint", 10, answer);
    check("identity", 20, answer);
}

#[test]
fn the_six_rules_decide_as_the_specification_says() {
    check("resolve", 50, answer);
}

#[test]
fn handshakes_go_as_the_specification_says() {
    check("handshake", 150, answer);
}

/// Nothing here depends on the profile.
fn answer(op: &str, input: &Value, _profile: &str) -> Answer {
    let answer = match op {
        "hello" => {
            Hello::from_json(&message(input)).map(|hello| json!({"text": hello.to_json()})).map_err(code)
        }
        "text_message" => TextMessage::from_json(&message(input))
            .map(|message| json!({"text": message.to_json()}))
            .map_err(code),
        "hash_model" => {
            Ok(json!({"hash": model_hash(&Json::parse(text(&input["config"]).as_bytes()).expect("JSON"))}))
        }
        "hash_tokenizer" => Ok(json!({"hash": vocabulary_hash(&input["vocab"])})),
        "fingerprint" => Ok(json!({"fingerprint": fingerprint(&input["tensors"])})),
        "identity" => {
            let identity = ModelIdentity::from_config_json(text(&input["config"]).as_bytes());
            Ok(identity_json(&identity.expect("a configuration")))
        }
        "resolve" => Ok(resolution(input)),
        "handshake" => script::play(input),
        other => panic!("no operation {other}"),
    };
    answer.map_err(|code| code.as_str().to_owned())
}

fn message(input: &Value) -> Vec<u8> {
    input["text"].as_str().map_or_else(|| bytes(&input["hex"]), |text| text.as_bytes().to_vec())
}

fn code(error: MessageError) -> ErrorCode {
    match error {
        MessageError::TooLarge { .. } => ErrorCode::HandshakeTooLarge,
        _ => ErrorCode::MalformedHello,
    }
}

fn vocabulary_hash(vocabulary: &Value) -> String {
    let entries = vocabulary.as_array().expect("a list").iter();
    tokenizer_hash(entries.map(|entry| (text(&entry[0]), entry[1].as_i64().expect("an id"))))
}

/// Fingerprints are made of files: the tensors go into one, in the order in which they are given.
fn fingerprint(tensors: &Value) -> String {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for tensor in tensors.as_array().expect("a list") {
        let start = data.len();
        data.extend(bytes(&tensor[3]));
        let offsets = [start, data.len()];
        header.insert(
            text(&tensor[0]).to_owned(),
            json!({"dtype": tensor[1], "shape": tensor[2], "data_offsets": offsets}),
        );
    }
    let header = Value::Object(header).to_string();
    let file = tempfile::NamedTempFile::with_suffix(".safetensors").expect("a file");
    let length = u64::try_from(header.len()).expect("64 bits").to_le_bytes();
    std::fs::write(file.path(), [&length[..], header.as_bytes(), &data].concat())
        .expect("the file is written");
    Fingerprint::of_safetensors(&[file.path()]).expect("a checkpoint").to_string()
}

fn identity_json(identity: &ModelIdentity) -> Value {
    json!({
        "model_family": identity.model_family,
        "model_id": identity.model_id,
        "model_hash": identity.model_hash,
        "hidden_dim": identity.hidden_dim,
        "num_layers": identity.num_layers,
        "num_kv_heads": identity.num_kv_heads,
        "head_dim": identity.head_dim,
        "tokenizer_hash": identity.tokenizer_hash,
    })
}

fn resolution(input: &Value) -> Value {
    let weights = |field: &str| input[field].as_str().map(|hex| hex.parse().expect("a fingerprint"));
    let maps = maps(input);
    let lookup = move |source: &str, target: &str| maps.iter().any(|(s, t)| s == source && t == target);
    let options = ResolveOptions {
        maps: Some(&lookup),
        shared_tokens: input["shared_tokens"].as_u64().map(|n| usize::try_from(n).expect("a count")),
        local_weights: weights("local_weights"),
        remote_weights: weights("remote_weights"),
        policy: policy(input),
    };
    let resolution = resolve(&identity(&input["local"]), &identity(&input["remote"]), &options);
    json!({
        "mode": resolution.mode.number(),
        "avp_map_id": resolution.map_id,
        "resolution_path": resolution.path.as_str(),
        "verification": resolution.verification.as_str(),
    })
}

/// Pairs of the local and the peer's hash for which there is a map.
fn maps(input: &Value) -> Vec<(String, String)> {
    let pairs = input["maps"].as_array().into_iter().flatten();
    pairs.map(|pair| (text(&pair[0]).to_owned(), text(&pair[1]).to_owned())).collect()
}

fn policy(input: &Value) -> VerificationPolicy {
    match input["policy"].as_str() {
        None | Some("allow") => VerificationPolicy::Allow,
        Some("require") => VerificationPolicy::Require,
        Some(other) => panic!("no policy {other}"),
    }
}

fn millis(value: &Value) -> std::time::Duration {
    std::time::Duration::from_millis(number(value))
}
