//! JSON as Python's `json` module reads and writes it (docs/spec/handshake.md, sections 2 and 6).
//!
//! Model hashes are taken over the text that `json.dumps` writes, so `1`, `1.0` and `1e5` must stay apart, integers
//! have any size, and `NaN` and `Infinity` are values. General JSON crates keep none of this.

mod convert;
mod error;
mod integer;
mod parse;
mod write;

pub(crate) use write::write_string;

pub use error::JsonError;
pub use integer::Integer;
pub use parse::ParseLimits;

use std::cmp::Ordering;

/// A JSON document with Python's types.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`, Python's `None`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number of any size.
    Int(Integer),
    /// A number with a fraction or an exponent, or `NaN`, `Infinity`, `-Infinity`.
    Float(f64),
    /// A string.
    String(String),
    /// A list.
    Array(Vec<Json>),
    /// A dictionary, in order of insertion, each key once.
    Object(Vec<(Key, Json)>),
}

/// Key of an object.
///
/// A document that was parsed has only [`Key::Str`]. The others exist because Python dictionaries have such keys in
/// memory (`id2label` of a loaded config), and `json.dumps` sorts them before it turns them into strings.
#[derive(Clone, Debug, PartialEq)]
pub enum Key {
    /// `None`, written as `"null"`.
    Null,
    /// Written as `"true"` or `"false"`.
    Bool(bool),
    /// Written as its digits.
    Int(Integer),
    /// Written as Python's `repr`.
    Float(f64),
    /// A string.
    Str(String),
}

impl Json {
    /// Parses a document with the default [`ParseLimits`].
    ///
    /// As in Python, the last of several equal keys wins and keeps the place of the first. Unlike Python, a lone
    /// surrogate escape is an error.
    ///
    /// # Errors
    /// [`JsonError`] with the byte offset at which the text stops being JSON, or the limit that it exceeds.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        Self::parse_with(text, ParseLimits::default())
    }

    /// Parses a document with the given limits.
    ///
    /// # Errors
    /// As [`Json::parse`].
    pub fn parse_with(text: &[u8], limits: ParseLimits) -> Result<Self, JsonError> {
        parse::parse(text, limits)
    }

    /// The text of `json.dumps(value, sort_keys=True, separators=(",", ":"))`.
    #[must_use]
    pub fn to_canonical(&self) -> String {
        write::to_string(self, write::CANONICAL)
    }

    /// The text of `json.dumps(value)`.
    #[must_use]
    pub fn to_text(&self) -> String {
        write::to_string(self, write::DEFAULT)
    }

    /// The value under `key`, where this is an object that has it.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Json> {
        let Json::Object(entries) = self else { return None };
        entries.iter().find(|(k, _)| matches!(k, Key::Str(s) if s == key)).map(|(_, value)| value)
    }

    /// What kind of value this is, for messages.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Int(_) => "an integer",
            Json::Float(_) => "a float",
            Json::String(_) => "a string",
            Json::Array(_) => "a list",
            Json::Object(_) => "an object",
        }
    }

    /// Whether Python's `or` would go on to its right side.
    pub(crate) fn is_falsy(&self) -> bool {
        match self {
            Json::Null => true,
            Json::Bool(b) => !b,
            Json::Int(i) => *i == Integer::from(0),
            Json::Float(f) => *f == 0.0,
            Json::String(s) => s.is_empty(),
            Json::Array(items) => items.is_empty(),
            Json::Object(entries) => entries.is_empty(),
        }
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Key::Str(key.to_owned())
    }
}

impl Key {
    /// Python's order of keys of one type; strings by code point. Python refuses to sort mixed types, here they
    /// follow one another in the order of the variants.
    pub(crate) fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::Str(a), Key::Str(b)) => a.cmp(b),
            (Key::Int(a), Key::Int(b)) => a.cmp(b),
            (Key::Float(a), Key::Float(b)) => a.total_cmp(b),
            (Key::Bool(a), Key::Bool(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Key::Null => 0,
            Key::Bool(_) => 1,
            Key::Int(_) => 2,
            Key::Float(_) => 3,
            Key::Str(_) => 4,
        }
    }
}
