//! `avp.text`: what a model read to make a context, so that a receiver of another model can be given the text.
//!
//! In files only: a peer that takes the KV cache has no use for it.

use avp_wire::ext::TEXT;
use avp_wire::{Limits, Metadata};

/// The value for `text`: a JSON string in ASCII. `None` if it is too long for one entry.
pub(crate) fn encode(text: &str) -> Option<String> {
    let json = serde_json::to_string(text).ok()?;
    let mut value = String::with_capacity(json.len());
    for unit in json.encode_utf16() {
        match u8::try_from(unit) {
            Ok(ascii) if ascii.is_ascii() => value.push(char::from(ascii)),
            _ => value.push_str(&format!("\\u{unit:04x}")),
        }
    }
    (value.len() <= Limits::default().max_extra_value_len).then_some(value)
}

/// The text that a context's metadata carries.
#[must_use]
pub fn text_of(metadata: &Metadata) -> Option<String> {
    serde_json::from_str(metadata.extra.get(TEXT)?).ok()
}

/// What is asked where the text behind a context goes instead of it: the text, and then the prompt, unless that is
/// its last line, as in that of an agent which thinks for another model and reads its question too.
#[must_use]
pub fn with_text(text: &str, prompt: &str) -> String {
    let before = text.trim_end().strip_suffix(prompt.trim());
    let is_there = before.is_some_and(|before| before.is_empty() || before.ends_with('\n'));
    if is_there { text.to_owned() } else { format!("{text}\n{prompt}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_comes_back_from_an_ascii_value() {
        for text in ["", "plain", "two\nlines \"quoted\" \\", "Grüße, 千问 😀 \u{0} \u{7f}"] {
            let value = encode(text).unwrap();
            assert!(value.is_ascii());
            let metadata = Metadata { extra: [(TEXT.to_owned(), value)].into(), ..Default::default() };
            assert_eq!(text_of(&metadata).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_text_too_long_for_one_entry_is_left_out() {
        assert_eq!(encode(&"x".repeat(4094)).map(|v| v.len()), Some(4096));
        assert_eq!(encode(&"x".repeat(4095)), None);
    }
}
