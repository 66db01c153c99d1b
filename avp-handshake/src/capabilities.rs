//! Our extension's entry in the capabilities of a hello.

use avp_wire::ext;
use serde_json::{Map, Value, json};

use crate::Hello;
use crate::fingerprint::Fingerprint;
use crate::json::Json;
use crate::message::{MessageError, wrong};

/// Key of our entry in the capabilities (docs/spec/extensions.md, section 2).
pub const EXTENSION_KEY: &str = "avp.rs";

/// Version of the extension that is spoken here.
const VERSION: u64 = 1;
/// Keys or codecs that one hello may list, and bytes in the name of one.
const MAX_LIST: usize = 64;
const MAX_NAME: usize = 256;
const DEVICE: &str = "device";

/// What a peer that speaks our extension announces:
/// `"avp.rs": {"v": 1, "weights": HEX, "keys": [..], "codecs": [..], "vocabulary": {"fingerprint": HEX, "rows": N}, "device": NAME}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Fingerprint of the checkpoint, where it is known.
    pub weights: Option<Fingerprint>,
    /// Keys of the `extra` map that the peer understands; others are not sent to it.
    pub keys: Vec<String>,
    /// KV codecs that the peer decodes.
    pub codecs: Vec<String>,
    /// The vocabulary of its model, where it takes distributions over it.
    pub vocabulary: Option<VocabularyClaim>,
    /// The device in whose memory it takes contexts, by a name that is the same in all processes of a machine.
    pub device: Option<String>,
}

/// What a peer says of its model's vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VocabularyClaim {
    /// BLAKE3 of its token hashes (docs/spec/extensions.md, section 6).
    pub fingerprint: Fingerprint,
    /// Rows of the model's output head, at least 1: ids are below it.
    pub rows: u32,
}

impl Capabilities {
    /// Whether the peer understands this key of the `extra` map.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        self.keys.iter().any(|k| k == key)
    }

    /// Whether the peer decodes this KV codec.
    #[must_use]
    pub fn has_codec(&self, codec: &str) -> bool {
        self.codecs.iter().any(|c| c == codec)
    }

    /// Reads our entry of a hello; `None` where the peer does not speak the extension, or only a version of it that
    /// is not known here.
    ///
    /// # Errors
    /// [`MessageError`] where the entry has a wrong type or lists more than 64 names.
    pub fn from_hello(hello: &Hello) -> Result<Option<Self>, MessageError> {
        let Some(entry) = hello.capabilities.get(EXTENSION_KEY) else { return Ok(None) };
        let Value::Object(entry) = entry else {
            return Err(wrong("avp.rs", "an object", &Json::from(entry)));
        };
        if entry.get("v").and_then(Value::as_u64) != Some(VERSION) {
            return Ok(None);
        }
        Ok(Some(Self {
            weights: fingerprint(entry, "weights", "avp.rs.weights")?,
            keys: names(entry, "keys")?,
            codecs: names(entry, "codecs")?,
            vocabulary: vocabulary(entry)?,
            device: device(entry)?,
        }))
    }

    /// Puts the entry into a hello, in place of the one that it may have.
    pub fn announce(&self, hello: &mut Hello) {
        let mut entry = Map::new();
        entry.insert("v".to_owned(), VERSION.into());
        if let Some(weights) = &self.weights {
            entry.insert("weights".to_owned(), weights.to_string().into());
        }
        entry.insert("keys".to_owned(), json!(self.keys));
        entry.insert("codecs".to_owned(), json!(self.codecs));
        if let Some(VocabularyClaim { fingerprint, rows }) = &self.vocabulary {
            let claim = json!({ "fingerprint": fingerprint.to_string(), "rows": rows });
            entry.insert("vocabulary".to_owned(), claim);
        }
        if let Some(device) = &self.device {
            entry.insert(DEVICE.to_owned(), json!(device));
        }
        hello.capabilities.insert(EXTENSION_KEY.to_owned(), Value::Object(entry));
    }
}

/// Takes the device out of our entry of a hello: a peer that is not on this machine has no use for it.
pub fn without_device(hello: &mut Hello) {
    if let Some(Value::Object(entry)) = hello.capabilities.get_mut(EXTENSION_KEY) {
        entry.remove(DEVICE);
        if let Some(Value::Array(keys)) = entry.get_mut("keys") {
            keys.retain(|key| key != ext::MEMORY);
        }
    }
}

fn device(entry: &Map<String, Value>) -> Result<Option<String>, MessageError> {
    const FIELD: &str = "avp.rs.device";
    match entry.get(DEVICE) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) if name.is_empty() => Ok(None),
        Some(Value::String(name)) if name.len() > MAX_NAME => {
            Err(MessageError::TooMany { field: FIELD, limit: MAX_NAME, actual: name.len() })
        }
        Some(Value::String(name)) => Ok(Some(name.clone())),
        Some(other) => Err(wrong(FIELD, "a string", &Json::from(other))),
    }
}

fn vocabulary(entry: &Map<String, Value>) -> Result<Option<VocabularyClaim>, MessageError> {
    let claim = match entry.get("vocabulary") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(claim)) => claim,
        Some(other) => return Err(wrong("avp.rs.vocabulary", "an object", &Json::from(other))),
    };
    let Some(fingerprint) = fingerprint(claim, "fingerprint", "avp.rs.vocabulary.fingerprint")? else {
        return Ok(None);
    };
    let rows = claim.get("rows").unwrap_or(&Value::Null);
    let number = rows.as_u64().and_then(|rows| u32::try_from(rows).ok()).filter(|rows| *rows > 0);
    let wrong_rows = || wrong("avp.rs.vocabulary.rows", "a number from 1 to 4294967295", &Json::from(rows));
    Ok(Some(VocabularyClaim { fingerprint, rows: number.ok_or_else(wrong_rows)? }))
}

fn fingerprint(
    entry: &Map<String, Value>,
    key: &str,
    field: &'static str,
) -> Result<Option<Fingerprint>, MessageError> {
    const EXPECTED: &str = "64 lowercase hexadecimal digits";
    match entry.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(value) => match value.as_str().and_then(|text| text.parse().ok()) {
            Some(fingerprint) => Ok(Some(fingerprint)),
            None => Err(wrong(field, EXPECTED, &Json::from(value))),
        },
    }
}

fn names(entry: &Map<String, Value>, field: &'static str) -> Result<Vec<String>, MessageError> {
    let Some(value) = entry.get(field) else { return Ok(Vec::new()) };
    let Value::Array(items) = value else {
        return Err(wrong(field, "a list of strings", &Json::from(value)));
    };
    if items.len() > MAX_LIST {
        return Err(MessageError::TooMany { field, limit: MAX_LIST, actual: items.len() });
    }
    let name = |item: &Value| match item {
        Value::String(name) if name.len() > MAX_NAME => {
            Err(MessageError::TooMany { field, limit: MAX_NAME, actual: name.len() })
        }
        Value::String(name) => Ok(name.clone()),
        other => Err(wrong(field, "a list of strings", &Json::from(other))),
    };
    items.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(entry: Value) -> Hello {
        let mut hello = Hello::default();
        hello.capabilities.insert(EXTENSION_KEY.into(), entry);
        hello
    }

    #[test]
    fn what_is_announced_reads_back() {
        let capabilities = Capabilities {
            weights: Some(Fingerprint::from_bytes([0xab; 32])),
            keys: vec!["avp.kind".into(), "avp.blake3".into(), "avp.memory".into()],
            codecs: vec!["q8".into()],
            vocabulary: Some(VocabularyClaim { fingerprint: Fingerprint::from_bytes([0xcd; 32]), rows: 796 }),
            device: Some("cuda:0123".to_owned()),
        };
        let mut hello = Hello::default();
        capabilities.announce(&mut hello);
        let expected = format!(
            r#"{{"avp.rs": {{"v": 1, "weights": "{}", "keys": ["avp.kind", "avp.blake3", "avp.memory"], "codecs": ["q8"], "vocabulary": {{"fingerprint": "{}", "rows": 796}}, "device": "cuda:0123"}}}}"#,
            "ab".repeat(32),
            "cd".repeat(32)
        );
        assert!(hello.to_json().contains(&expected), "{}", hello.to_json());
        let read = Hello::from_json(hello.to_json().as_bytes()).unwrap();
        assert_eq!(Capabilities::from_hello(&read), Ok(Some(capabilities.clone())));
        without_device(&mut hello);
        let keys = vec!["avp.kind".into(), "avp.blake3".into()];
        let elsewhere = Capabilities { device: None, keys, ..capabilities };
        assert_eq!(Capabilities::from_hello(&hello), Ok(Some(elsewhere)));
    }

    // spec: extensions 2.4
    #[test]
    fn a_peer_without_the_extension_or_with_a_later_one_has_none() {
        assert_eq!(Capabilities::from_hello(&Hello::default()), Ok(None));
        assert_eq!(Capabilities::from_hello(&hello(json!({"v": 2, "keys": 7}))), Ok(None));
        assert_eq!(Capabilities::from_hello(&hello(json!({}))), Ok(None));
    }

    // spec: extensions 2.5
    #[test]
    fn what_is_missing_null_or_empty_is_not_known() {
        let nothing = Ok(Some(Capabilities::default()));
        for entry in [
            json!({"v": 1}),
            json!({"v": 1, "weights": null, "keys": [], "vocabulary": null}),
            json!({"v": 1, "weights": "", "vocabulary": {}, "device": null}),
            json!({"v": 1, "device": ""}),
        ] {
            assert_eq!(Capabilities::from_hello(&hello(entry.clone())), nothing, "{entry}");
        }
    }

    // spec: extensions 2.5, extensions 2.6, extensions 2.7
    #[test]
    fn wrong_types_and_long_lists_are_errors() {
        let many: Vec<String> = (0..65).map(|i| i.to_string()).collect();
        for entry in [
            json!(1),
            json!({"v": 1, "weights": "xyz"}),
            json!({"v": 1, "weights": "AB".repeat(32)}),
            json!({"v": 1, "weights": 5}),
            json!({"v": 1, "keys": "avp.pad"}),
            json!({"v": 1, "keys": [1]}),
            json!({"v": 1, "codecs": many}),
            json!({"v": 1, "codecs": ["x".repeat(257)]}),
            json!({"v": 1, "device": 0}),
            json!({"v": 1, "device": "x".repeat(257)}),
            json!({"v": 1, "vocabulary": "ab".repeat(32)}),
            json!({"v": 1, "vocabulary": {"fingerprint": "ab", "rows": 1}}),
            json!({"v": 1, "vocabulary": {"fingerprint": "ab".repeat(32)}}),
            json!({"v": 1, "vocabulary": {"fingerprint": "ab".repeat(32), "rows": 0}}),
            json!({"v": 1, "vocabulary": {"fingerprint": "ab".repeat(32), "rows": -1}}),
            json!({"v": 1, "vocabulary": {"fingerprint": "ab".repeat(32), "rows": 1.5}}),
            json!({"v": 1, "vocabulary": {"fingerprint": "ab".repeat(32), "rows": 4_294_967_296_u64}}),
        ] {
            assert!(Capabilities::from_hello(&hello(entry.clone())).is_err(), "{entry}");
        }
    }
}
