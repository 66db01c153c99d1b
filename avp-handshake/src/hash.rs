//! SHA-256 over the text that Python's `json.dumps` writes.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::json::{Json, write_string};

/// SHA-256, hex, of a model config in canonical form: `model_hash` of the hello (docs/spec/handshake.md, section 2).
#[must_use]
pub fn model_hash(config: &Json) -> String {
    hex::encode(Sha256::digest(config.to_canonical()))
}

/// SHA-256, hex, of a vocabulary sorted by code point: `tokenizer_hash` of the hello (docs/spec/handshake.md, section 2).
///
/// `vocab` holds each token string once, added tokens included, with its id.
#[must_use]
pub fn tokenizer_hash<S, I>(vocab: impl IntoIterator<Item = (S, I)>) -> String
where
    S: AsRef<str>,
    I: Into<i64>,
{
    let token = |(token, id): (S, I)| (first_bytes(token.as_ref()), token, id.into());
    let mut tokens: Vec<(u64, S, i64)> = vocab.into_iter().map(token).collect();
    // Order of UTF-8 bytes is order of code points. Most pairs differ in their first bytes, which are at hand.
    tokens.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.as_ref().cmp(b.1.as_ref())));

    let mut hasher = Sha256::new();
    let mut text = String::with_capacity(2 * FLUSH);
    text.push('[');
    for (i, (_, token, id)) in tokens.iter().enumerate() {
        text.push_str(if i > 0 { ",[" } else { "[" });
        write_string(&mut text, token.as_ref());
        text.push(',');
        // Writing to a String cannot fail.
        let _ = write!(text, "{id}");
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

/// The first eight bytes as a number that sorts as they do, short strings filled up with zeros.
fn first_bytes(text: &str) -> u64 {
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    u64::from_be_bytes(bytes)
}

const FLUSH: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // spec: handshake 2.2
        #[test]
        fn the_order_of_the_vocabulary_does_not_matter(
            vocab in prop::collection::btree_map("[\u{0}a\u{e9}\u{ffee}\u{1f600}]{0,12}", any::<i64>(), 0..50)
        ) {
            let pairs = |(token, &id): (&String, &i64)| {
                Json::Array(vec![Json::String(token.clone()), Json::Int(id.into())])
            };
            // A BTreeMap iterates in order of code points.
            let canonical = Json::Array(vocab.iter().map(pairs).collect()).to_canonical();
            let expected = hex::encode(Sha256::digest(canonical));
            prop_assert_eq!(tokenizer_hash(vocab.iter().map(|(t, &id)| (t, id))), expected.clone());
            prop_assert_eq!(tokenizer_hash(vocab.iter().rev().map(|(t, &id)| (t, id))), expected);
        }
    }
}
