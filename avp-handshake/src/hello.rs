//! The hello: who speaks, which model it runs, what it can do.

use serde_json::{Map, Value};

use crate::ModelIdentity;
use crate::json::{Integer, Json, Key};
use crate::message::{MessageError, entry, map, parse_object, string, wrong};

/// Feature version that the hello announces; that of the reference SDK.
pub const AVP_VERSION: &str = "0.6.2";

/// A longer hello is not read (docs/spec/limits.md).
pub const MAX_HELLO_BYTES: usize = 64 * 1024;

/// First message of each side (docs/spec/handshake.md, section 1).
///
/// ```
/// use avp_handshake::Hello;
/// let hello = Hello { agent_id: "planner".into(), ..Hello::default() };
/// assert_eq!(hello.to_json(), r#"{"agent_id": "planner", "avp_version": "0.6.2", "capabilities": {}}"#);
/// assert_eq!(Hello::from_json(hello.to_json().as_bytes()), Ok(hello));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// Name of the agent, free text.
    pub agent_id: String,
    /// Feature version, `major.minor.patch`.
    pub avp_version: String,
    /// The model, where the agent has one.
    pub identity: Option<ModelIdentity>,
    /// What the agent can do; [`crate::Capabilities`] reads our part of it.
    pub capabilities: Map<String, Value>,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            agent_id: String::new(),
            avp_version: AVP_VERSION.to_owned(),
            identity: None,
            capabilities: Map::new(),
        }
    }
}

impl Hello {
    /// A hello of this version for a model.
    #[must_use]
    pub fn new(agent_id: impl Into<String>, identity: ModelIdentity) -> Self {
        Self { agent_id: agent_id.into(), identity: Some(identity), ..Self::default() }
    }

    /// The text that goes on the wire, equal to the SDK's.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut entries = vec![
            entry("agent_id", &self.agent_id),
            entry("avp_version", &self.avp_version),
            (Key::from("capabilities"), Json::from(&self.capabilities)),
        ];
        if let Some(identity) = &self.identity {
            entries.push((Key::from("identity"), identity.to_json()));
        }
        Json::Object(entries).to_text()
    }

    /// Reads a hello. Unknown keys are ignored, missing ones take their defaults.
    ///
    /// # Errors
    /// [`MessageError`] where the text is longer than [`MAX_HELLO_BYTES`], is not a JSON object, or a field has the
    /// wrong type.
    pub fn from_json(text: &[u8]) -> Result<Self, MessageError> {
        let object = parse_object(text, MAX_HELLO_BYTES)?;
        let identity = match object.get("identity") {
            None => None,
            Some(value @ Json::Object(_)) => Some(ModelIdentity::from_json(value)?),
            Some(other) => return Err(wrong("identity", "an object", other)),
        };
        Ok(Self {
            agent_id: string(&object, "agent_id", "")?,
            avp_version: string(&object, "avp_version", AVP_VERSION)?,
            identity,
            capabilities: map(&object, "capabilities")?,
        })
    }
}

impl ModelIdentity {
    /// The `identity` object of a hello; the tokenizer hash is left out where it is empty.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let number = |key: &str, value: u32| (Key::from(key), Json::Int(Integer::from(value)));
        let mut entries = vec![
            entry("model_family", &self.model_family),
            entry("model_id", &self.model_id),
            entry("model_hash", &self.model_hash),
            number("hidden_dim", self.hidden_dim),
            number("num_layers", self.num_layers),
            number("num_kv_heads", self.num_kv_heads),
            number("head_dim", self.head_dim),
        ];
        if !self.tokenizer_hash.is_empty() {
            entries.push(entry("tokenizer_hash", &self.tokenizer_hash));
        }
        Json::Object(entries)
    }

    /// Reads the `identity` object of a hello. Null counts as missing: the SDK sends it for fields that a config
    /// sets to null.
    ///
    /// # Errors
    /// [`MessageError`] where a field has the wrong type or a number does not fit u32.
    pub fn from_json(object: &Json) -> Result<Self, MessageError> {
        let text = |field| match object.get(field) {
            None | Some(Json::Null) => Ok(String::new()),
            Some(_) => string(object, field, ""),
        };
        let number = |field| match object.get(field) {
            None | Some(Json::Null) => Ok(0),
            Some(Json::Int(i)) => i.to_u32().ok_or(MessageError::OutOfRange { field }),
            Some(other) => Err(wrong(field, "a whole number", other)),
        };
        Ok(Self {
            model_family: text("model_family")?,
            model_id: text("model_id")?,
            model_hash: text("model_hash")?,
            hidden_dim: number("hidden_dim")?,
            num_layers: number("num_layers")?,
            num_kv_heads: number("num_kv_heads")?,
            head_dim: number("head_dim")?,
            tokenizer_hash: text("tokenizer_hash")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> MessageError {
        Hello::from_json(text.as_bytes()).unwrap_err()
    }

    // spec: handshake 1.6, handshake 1.7
    #[test]
    fn unknown_keys_are_ignored_and_missing_ones_take_defaults() {
        let hello = Hello::from_json(br#"{"new": [1, {"x": null}], "identity": {"more": 1}}"#).unwrap();
        assert_eq!(hello, Hello { identity: Some(ModelIdentity::default()), ..Hello::default() });
    }

    // spec: handshake 1.8
    #[test]
    fn nulls_of_the_sdk_count_as_missing() {
        let text = br#"{"identity": {"model_family": null, "num_kv_heads": null, "hidden_dim": 64}}"#;
        let identity = Hello::from_json(text).unwrap().identity.unwrap();
        assert_eq!((identity.hidden_dim, identity.num_kv_heads), (64, 0));
    }

    // spec: handshake 1.3, handshake 1.9
    #[test]
    fn type_confusion_names_the_field() {
        let cases = [
            (r#"{"agent_id": 5}"#, "agent_id", "an integer"),
            (r#"{"agent_id": null}"#, "agent_id", "null"),
            (r#"{"avp_version": 0.6}"#, "avp_version", "a float"),
            (r#"{"capabilities": []}"#, "capabilities", "a list"),
            (r#"{"identity": null}"#, "identity", "null"),
            (r#"{"identity": "qwen"}"#, "identity", "a string"),
            (r#"{"identity": {"hidden_dim": "64"}}"#, "hidden_dim", "a string"),
            (r#"{"identity": {"hidden_dim": 64.0}}"#, "hidden_dim", "a float"),
            (r#"{"identity": {"hidden_dim": true}}"#, "hidden_dim", "a boolean"),
            (r#"{"identity": {"model_hash": 1}}"#, "model_hash", "an integer"),
        ];
        for (text, name, kind) in cases {
            let matches = matches!(error(text), MessageError::WrongType { field, found, .. } if field == name && found == kind);
            assert!(matches, "{text}: {}", error(text));
        }
        for text in [r#"{"identity": {"num_layers": -1}}"#, r#"{"identity": {"num_layers": 4294967296}}"#] {
            assert_eq!(error(text), MessageError::OutOfRange { field: "num_layers" });
        }
        for (text, found) in [("[]", "a list"), ("null", "null"), ("\"x\"", "a string")] {
            assert_eq!(error(text), MessageError::NotAnObject { found });
        }
    }

    // spec: limits 7.1
    #[test]
    fn more_than_64_kib_is_not_read() {
        let padded = |n: usize| format!("{{}}{}", " ".repeat(n - 2));
        assert!(Hello::from_json(padded(MAX_HELLO_BYTES).as_bytes()).is_ok());
        let limit = MAX_HELLO_BYTES;
        assert_eq!(error(&padded(limit + 1)), MessageError::TooLarge { limit, actual: limit + 1 });
    }

    proptest! {
        #[test]
        fn a_hello_reads_back_as_it_was(agent in any::<String>(), family in any::<String>(), dim in any::<u32>(), hash in any::<String>()) {
            let identity = ModelIdentity { model_family: family, hidden_dim: dim, tokenizer_hash: hash, ..Default::default() };
            let mut hello = Hello::new(agent.clone(), identity);
            hello.capabilities.insert(agent, serde_json::json!({"z": [1, 2.5, null], "a": true}));
            prop_assert_eq!(Hello::from_json(hello.to_json().as_bytes()).unwrap(), hello);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = Hello::from_json(&bytes);
        }
    }
}
