//! Text between agents: the fallback that always works.

use serde_json::{Map, Value};

use crate::AVP_VERSION;
use crate::json::{Json, Key};
use crate::message::{MessageError, entry, map, parse_object, string};

/// A longer text message is not read.
pub const MAX_TEXT_BYTES: usize = 16 * 1024 * 1024;

/// A text message: the body of `POST /avp/v2/text`, and the payload of `text` frames (docs/spec/http.md).
#[derive(Clone, Debug, PartialEq)]
pub struct TextMessage {
    /// Feature version.
    pub avp_version: String,
    /// Session that this belongs to; may be empty.
    pub session_id: String,
    /// Who speaks.
    pub source_agent_id: String,
    /// Who is spoken to.
    pub target_agent_id: String,
    /// What is said.
    pub content: String,
    /// Anything more; left out of the text where it is empty.
    pub extra: Map<String, Value>,
}

impl Default for TextMessage {
    fn default() -> Self {
        Self {
            avp_version: AVP_VERSION.to_owned(),
            session_id: String::new(),
            source_agent_id: String::new(),
            target_agent_id: String::new(),
            content: String::new(),
            extra: Map::new(),
        }
    }
}

impl TextMessage {
    /// The text that goes on the wire, equal to the SDK's.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut entries = vec![
            entry("avp_version", &self.avp_version),
            entry("session_id", &self.session_id),
            entry("source_agent_id", &self.source_agent_id),
            entry("target_agent_id", &self.target_agent_id),
            entry("content", &self.content),
        ];
        if !self.extra.is_empty() {
            entries.push((Key::from("extra"), Json::from(&self.extra)));
        }
        Json::Object(entries).to_text()
    }

    /// Reads a text message. Unknown keys are ignored, missing ones take their defaults.
    ///
    /// # Errors
    /// [`MessageError`] where the text is longer than [`MAX_TEXT_BYTES`], is not a JSON object, or a field has the
    /// wrong type.
    pub fn from_json(text: &[u8]) -> Result<Self, MessageError> {
        let object = parse_object(text, MAX_TEXT_BYTES)?;
        Ok(Self {
            avp_version: string(&object, "avp_version", AVP_VERSION)?,
            session_id: string(&object, "session_id", "")?,
            source_agent_id: string(&object, "source_agent_id", "")?,
            target_agent_id: string(&object, "target_agent_id", "")?,
            content: string(&object, "content", "")?,
            extra: map(&object, "extra")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: http 2.3
    #[test]
    fn extra_goes_out_only_when_there_is_some() {
        let mut message = TextMessage { content: "héllo\n".into(), ..Default::default() };
        assert!(message.to_json().ends_with(r#""content": "h\u00e9llo\n"}"#));
        message.extra.insert("k".into(), 1e-5.into());
        assert!(message.to_json().ends_with(r#", "extra": {"k": 1e-05}}"#));
        assert_eq!(TextMessage::from_json(message.to_json().as_bytes()), Ok(message));
    }

    // spec: http 2.4
    #[test]
    fn missing_keys_take_defaults_and_other_types_are_named() {
        assert_eq!(TextMessage::from_json(br#"{"new": [1]}"#), Ok(TextMessage::default()));
        let error = TextMessage::from_json(br#"{"content": ["a"]}"#).unwrap_err();
        assert_eq!(error.to_string(), "field content is a list, it should be a string");
        for bad in [r#"{"content": null}"#, r#"{"extra": []}"#, r#"{"session_id": 1}"#, "[]", "\"x\""] {
            assert!(TextMessage::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    // spec: http 2.4
    #[test]
    fn more_than_16_mib_is_not_read() {
        let padded = |n: usize| format!("{{}}{}", " ".repeat(n - 2));
        assert!(TextMessage::from_json(padded(MAX_TEXT_BYTES).as_bytes()).is_ok());
        let error = TextMessage::from_json(padded(MAX_TEXT_BYTES + 1).as_bytes()).unwrap_err();
        assert!(matches!(error, MessageError::TooLarge { .. }), "{error}");
    }

    // spec: handshake 6.9
    #[test]
    fn a_message_holds_at_most_65_536_values() {
        // The message, `extra`, the list, and what is in it.
        let message = |n: usize| format!(r#"{{"extra": {{"k": [{}1]}}}}"#, "1,".repeat(n - 4));
        assert!(TextMessage::from_json(message(65_536).as_bytes()).is_ok());
        let error = TextMessage::from_json(message(65_537).as_bytes()).unwrap_err();
        assert_eq!(error, MessageError::Json(crate::json::JsonError::TooManyValues { limit: 65_536 }));
    }
}
