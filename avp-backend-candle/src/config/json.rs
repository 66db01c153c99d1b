//! Typed reads from a JSON file, with errors that name the file and the key.

#![cfg_attr(not(test), deny(clippy::as_conversions))]

use std::path::Path;

use avp_backend::BackendError;
use serde_json::{Map, Value};

/// Largest JSON file that is read; tokenizers of large vocabularies stay below 50 MB.
const MAX_JSON_BYTES: u64 = 1 << 30;

/// Reads `path` as one JSON object.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, BackendError> {
    parse_object(path, &read_file(path)?)
}

/// `bytes` of the file at `path` (for messages) as one JSON object.
pub(crate) fn parse_object(path: &Path, bytes: &[u8]) -> Result<Map<String, Value>, BackendError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(invalid(path, "is not a JSON object")),
        Err(e) => Err(invalid(path, format!("is not valid JSON: {e}"))),
    }
}

/// Reads a file of the model folder into memory.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, BackendError> {
    let io = |source| BackendError::Io { path: path.to_path_buf(), source };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > MAX_JSON_BYTES {
        return Err(invalid(path, format!("has {size} bytes, more than the {MAX_JSON_BYTES} allowed here")));
    }
    std::fs::read(path).map_err(io)
}

/// The error for a file that does not say what it must.
pub(crate) fn invalid(path: &Path, problem: impl Into<String>) -> BackendError {
    BackendError::ModelFileInvalid { path: path.to_path_buf(), problem: problem.into() }
}

/// One object of a JSON file. `null` counts as absent, as in `transformers`.
#[derive(Clone, Copy)]
pub(crate) struct Object<'a> {
    path: &'a Path,
    /// Key under which this object was found, for messages; empty at the top.
    within: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub(crate) fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, within: "", map }
    }

    /// An error about `key`.
    pub(crate) fn error(&self, key: &str, problem: impl std::fmt::Display) -> BackendError {
        let within = if self.within.is_empty() { String::new() } else { format!("{}.", self.within) };
        invalid(self.path, format!("{within}{key} {problem}"))
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn object(&self, key: &'a str) -> Result<Option<Object<'a>>, BackendError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Object { path: self.path, within: key, map })),
            Some(other) => Err(self.error(key, format!("must be an object, is {}", brief(other)))),
        }
    }

    pub(crate) fn array(&self, key: &str) -> Result<Option<&'a [Value]>, BackendError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.error(key, format!("must be a list, is {}", brief(other)))),
        }
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, BackendError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.error(key, format!("must be a string, is {}", brief(other)))),
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, BackendError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.error(key, format!("must be true or false, is {}", brief(other)))),
        }
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, BackendError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_f64().filter(|n| n.is_finite()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.error(key, format!("must be a finite number, is {}", brief(value)))),
        }
    }

    /// A number above zero.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, BackendError> {
        match self.number(key)? {
            Some(n) if n <= 0.0 => Err(self.error(key, format!("must be above 0, is {n}"))),
            n => Ok(n),
        }
    }

    /// An integer in `1..=max`.
    pub(crate) fn size(&self, key: &str, max: usize) -> Result<Option<usize>, BackendError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.error(key, format!("must be an integer from 1 to {max}, is {}", brief(value)))),
        }
    }

    /// Like [`size`](Self::size), for keys that must be there.
    pub(crate) fn required_size(&self, key: &str, max: usize) -> Result<usize, BackendError> {
        self.size(key, max)?.ok_or_else(|| self.error(key, "is missing"))
    }

    /// An id or a list of ids, e.g. `eos_token_id`.
    pub(crate) fn ids(&self, key: &str) -> Result<Vec<u32>, BackendError> {
        let id = |v: &Value| match v.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) => Ok(n),
            None => Err(self.error(key, format!("must be token ids, has {}", brief(v)))),
        };
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(id).collect(),
            Some(one) => Ok(vec![id(one)?]),
        }
    }
}

/// A value for a message: never longer than a line.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { text.chars().take(57).collect::<String>() + "..." } else { text }
}
