//! Whether an answer is the expected one, and where it is not.

use serde_json::{Map, Number, Value};
use sha2::{Digest as _, Sha256};

/// The first difference between a result and what is expected of it, as `field: expected .., got ..`.
pub(crate) fn difference(want: &Value, got: &Value, rtol: Option<f64>) -> Option<Difference> {
    Comparison { rtol }.value("", want, got)
}

/// Where a result is another one than expected.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Difference {
    /// Path of the field, such as `metadata.dtype` or `steps[1].state`; empty for the whole.
    pub(crate) field: String,
    pub(crate) want: String,
    pub(crate) got: String,
}

struct Comparison {
    rtol: Option<f64>,
}

impl Comparison {
    fn value(&self, path: &str, want: &Value, got: &Value) -> Option<Difference> {
        let same = match (want, got) {
            (Value::Object(want), Value::Object(got)) => return self.object(path, want, got),
            (Value::Array(want), Value::Array(got)) => return self.list(path, want, got),
            (Value::Object(blob), Value::String(hex)) if blob.contains_key("sha256") => is_blob(blob, hex),
            (Value::Number(a), Value::Number(b)) => {
                a == b || is_one_float(a, b) || self.is_close(a.as_f64(), b.as_f64())
            }
            _ => want == got,
        };
        (!same).then(|| different(path, want, got))
    }

    /// Every field that is expected; in `extra` also no other.
    fn object(&self, path: &str, want: &Map<String, Value>, got: &Map<String, Value>) -> Option<Difference> {
        let whole = path == "extra" || path.ends_with(".extra");
        if whole && let Some((key, value)) = got.iter().find(|(key, _)| !want.contains_key(*key)) {
            return Some(Difference {
                field: join(path, key),
                want: "nothing".to_owned(),
                got: shown(value),
            });
        }
        want.iter().find_map(|(key, want)| {
            let path = join(path, key);
            match got.get(key) {
                Some(got) => self.value(&path, want, got),
                None => Some(Difference { field: path, want: shown(want), got: "nothing".to_owned() }),
            }
        })
    }

    fn list(&self, path: &str, want: &[Value], got: &[Value]) -> Option<Difference> {
        let mut pairs = want.iter().zip(got).enumerate();
        let found = pairs.find_map(|(i, (want, got))| self.value(&format!("{path}[{i}]"), want, got));
        found.or_else(|| {
            (want.len() != got.len()).then(|| Difference {
                field: path.to_owned(),
                want: format!("{} elements", want.len()),
                got: got.len().to_string(),
            })
        })
    }

    fn is_close(&self, want: Option<f64>, got: Option<f64>) -> bool {
        match (self.rtol, want, got) {
            (Some(rtol), Some(want), Some(got)) => (got - want).abs() <= rtol * want.abs().max(1.0),
            _ => false,
        }
    }
}

/// Whether numbers of which one has a point are equal: 0.0 may be written 0.
fn is_one_float(a: &Number, b: &Number) -> bool {
    (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64()
}

/// Whether bytes in hex are those of which a case gives length and hash.
fn is_blob(blob: &Map<String, Value>, hex: &str) -> bool {
    let Ok(bytes) = hex::decode(hex) else { return false };
    let len = blob.get("len").and_then(Value::as_u64);
    let sha256 = blob.get("sha256").and_then(Value::as_str);
    len == u64::try_from(bytes.len()).ok() && sha256 == Some(&hex::encode(Sha256::digest(bytes)))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn different(path: &str, want: &Value, got: &Value) -> Difference {
    let (want, got) = match (want, got) {
        // Of two long texts, what they have in common says nothing.
        (Value::String(want), Value::String(got)) => {
            let same = want.chars().zip(got.chars()).take_while(|(a, b)| a == b).count();
            (tail(want, same), tail(got, same))
        }
        _ => (shown(want), shown(got)),
    };
    Difference { field: path.to_owned(), want, got }
}

/// A text from a little before its character `same` on.
fn tail(text: &str, same: usize) -> String {
    const BEFORE: usize = 24;
    let start = same.saturating_sub(BEFORE);
    let tail: String = text.chars().skip(start).collect();
    let cut = if start == 0 { "" } else { "..." };
    format!("{cut}\"{}\"", shortened(&tail, 96))
}

/// A value in at most one line.
pub(crate) fn shown(value: &Value) -> String {
    shortened(&value.to_string(), 120)
}

pub(crate) fn shortened(text: &str, max: usize) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match flat.char_indices().nth(max) {
        Some((end, _)) => format!("{}...", &flat[..end]),
        None => flat,
    }
}
