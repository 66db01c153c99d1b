//! SHA-256 over the text that Python's `json.dumps` writes.

use sha2::{Digest, Sha256};

use crate::json::{Json, write_string};

/// SHA-256, hex, of a model config in canonical form: `model_hash` of the hello (WIRE.md, section 3).
#[must_use]
pub fn model_hash(config: &Json) -> String {
    hex::encode(Sha256::digest(config.to_canonical()))
}

/// SHA-256, hex, of a vocabulary sorted by code point: `tokenizer_hash` of the hello (WIRE.md, section 3).
///
/// `vocab` holds each token string once, added tokens included, with its id.
#[must_use]
pub fn tokenizer_hash<S, I>(vocab: impl IntoIterator<Item = (S, I)>) -> String
where
    S: AsRef<str>,
    I: Into<i64>,
{
    let mut tokens: Vec<(S, i64)> = vocab.into_iter().map(|(token, id)| (token, id.into())).collect();
    // Order of UTF-8 bytes is order of code points.
    tokens.sort_unstable_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()).then(a.1.cmp(&b.1)));

    let mut hasher = Sha256::new();
    let mut text = String::with_capacity(2 * FLUSH);
    text.push('[');
    for (i, (token, id)) in tokens.iter().enumerate() {
        text.push_str(if i > 0 { ",[" } else { "[" });
        write_string(&mut text, token.as_ref());
        text.push(',');
        text.push_str(&id.to_string());
        text.push(']');
        if text.len() >= FLUSH {
            hasher.update(&text);
            text.clear();
        }
    }
    text.push(']');
    hasher.update(&text);
    hex::encode(hasher.finalize())
}

const FLUSH: usize = 16 * 1024;
