//! What JSON messages share: typed fields, lenient about what is missing or unknown, strict about types.

use crate::json::{Json, JsonError, Key, ParseLimits};

/// Why a JSON message from a peer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The message is longer than it may be.
    #[error("the message has {actual} bytes, at most {limit} are read")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
        /// Bytes that came.
        actual: usize,
    },
    /// The message is not JSON.
    #[error("the message is not JSON: {0}")]
    Json(#[from] JsonError),
    /// The message is JSON, but no object.
    #[error("the message is {found} where an object is needed")]
    NotAnObject {
        /// What came.
        found: &'static str,
    },
    /// A field has the wrong type.
    #[error("field {field} is {found}, it should be {expected}")]
    WrongType {
        /// Name of the field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A number is negative or above u32.
    #[error("field {field} does not lie between 0 and 4294967295")]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
    },
    /// A list or a string of an extension is longer than it may be.
    #[error("field {field} has {actual} entries or bytes, at most {limit} are read")]
    TooMany {
        /// Name of the field.
        field: &'static str,
        /// Entries or bytes allowed.
        limit: usize,
        /// Entries or bytes that came.
        actual: usize,
    },
}

/// Parses a message of at most `limit` bytes that must be an object.
pub(crate) fn parse_object(text: &[u8], limit: usize) -> Result<Json, MessageError> {
    if text.len() > limit {
        return Err(MessageError::TooLarge { limit, actual: text.len() });
    }
    let limits = ParseLimits { values: MAX_VALUES, ..ParseLimits::default() };
    let json = Json::parse_with(text, limits)?;
    match json {
        Json::Object(_) => Ok(json),
        other => Err(MessageError::NotAnObject { found: other.kind() }),
    }
}

/// A value takes tens of bytes in memory and may come as two; a message needs few.
const MAX_VALUES: usize = 65_536;

pub(crate) fn string(object: &Json, field: &'static str, default: &str) -> Result<String, MessageError> {
    match object.get(field) {
        None => Ok(default.to_owned()),
        Some(Json::String(s)) => Ok(s.clone()),
        Some(other) => Err(wrong(field, "a string", other)),
    }
}

pub(crate) fn map(
    object: &Json,
    field: &'static str,
) -> Result<serde_json::Map<String, serde_json::Value>, MessageError> {
    match object.get(field) {
        None => Ok(serde_json::Map::new()),
        Some(value) => match value.to_serde() {
            serde_json::Value::Object(map) => Ok(map),
            _ => Err(wrong(field, "an object", value)),
        },
    }
}

pub(crate) fn wrong(field: &'static str, expected: &'static str, found: &Json) -> MessageError {
    MessageError::WrongType { field, expected, found: found.kind() }
}

pub(crate) fn entry(key: &str, value: &str) -> (Key, Json) {
    (Key::from(key), Json::String(value.to_owned()))
}
