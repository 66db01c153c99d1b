//! The bytes that tokens write: what grammars are followed by, and tokens of different vocabularies compared by.

#![cfg_attr(not(test), deny(clippy::as_conversions))]

use std::collections::HashMap;

use avp_backend::{BackendError, TokenPieces};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// The bytes of every token, special ones aside, wherever it stands.
pub(crate) fn pieces(tokenizer: &Tokenizer) -> Result<TokenPieces, BackendError> {
    let spelling = Spelling::of(tokenizer, Place::Anywhere).ok_or_else(|| BackendError::Unsupported {
        what: "a grammar with this tokenizer, whose decoder gives a token other text in other places"
            .to_owned(),
        supported: "the decoders ByteLevel, and Replace, ByteFallback and Fuse; or the model as a GGUF file"
            .to_owned(),
    })?;
    Ok(spelled(tokenizer, &spelling))
}

/// The bytes of every token, special ones aside, behind another one.
pub(crate) fn inner_pieces(tokenizer: &Tokenizer) -> Result<TokenPieces, BackendError> {
    let spelling = Spelling::of(tokenizer, Place::Within).ok_or_else(|| BackendError::Unsupported {
        what: "comparing this tokenizer's tokens with others, whose decoder is not known".to_owned(),
        supported: "the decoders ByteLevel, and Replace, ByteFallback, Fuse and Strip".to_owned(),
    })?;
    Ok(spelled(tokenizer, &spelling))
}

fn spelled(tokenizer: &Tokenizer, spelling: &Spelling) -> TokenPieces {
    let added = tokenizer.get_added_tokens_decoder();
    let writes = |id| added.get(&id).is_none_or(|token| !token.special);
    let count = tokenizer.get_vocab(true).into_values().max().map_or(0, |last| last.saturating_add(1));
    let token = |id| tokenizer.id_to_token(id).filter(|_| writes(id));
    TokenPieces::new((0..count).map(|id| token(id).map(|token| spelling.bytes(&token)).unwrap_or_default()))
}

/// Where a token stands whose bytes are asked for.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Anywhere,
    /// Not at the beginning of a text, where some tokenizers drop a space.
    Within,
}

/// How tokens spell bytes, where each has the same ones wherever it stands.
enum Spelling {
    /// As GPT-2's: a character is a byte.
    ByteLevel(HashMap<char, u8>),
    /// As SentencePiece's, where the space before a text stays.
    SentencePiece,
}

impl Spelling {
    fn of(tokenizer: &Tokenizer, place: Place) -> Option<Self> {
        let mut decoder = serde_json::to_value(tokenizer.get_decoder()).ok()?;
        if place == Place::Within
            && let Some(decoders) = decoder.get_mut("decoders").and_then(Value::as_array_mut)
            && decoders.len() == 4
        {
            decoders.pop_if(|last| *last == json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let sentence_piece = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]});
        match decoder.get("type").and_then(Value::as_str)? {
            "ByteLevel" => Some(Self::ByteLevel(bytes_of_chars())),
            _ => (decoder == sentence_piece).then_some(Self::SentencePiece),
        }
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            Self::ByteLevel(bytes) => {
                let known: Option<Vec<u8>> = token.chars().map(|c| bytes.get(&c).copied()).collect();
                known.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Self::SentencePiece => match byte(token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
        }
    }
}

/// The byte of `<0x0A>`.
fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 2)
}

/// GPT-2's characters for bytes: those that show stand for themselves, the others follow from U+0100 on.
fn bytes_of_chars() -> HashMap<char, u8> {
    let shows = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..);
    let (plain, moved): (Vec<u8>, Vec<u8>) = (0..=255).partition(shows);
    let plain = plain.into_iter().map(|byte| (char::from(byte), byte));
    plain.chain(('\u{100}'..).zip(moved)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(decoder: &Value, vocab: &[&str]) -> Tokenizer {
        let ids: HashMap<&str, usize> = vocab.iter().copied().zip(0..).collect();
        let special = |id: usize, content: &str, special: bool| {
            json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false})
        };
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "decoder": decoder,
            "added_tokens": [special(vocab.len(), "<end>", true), special(vocab.len() + 1, "<tool>", false)],
            "model": {"type": "BPE", "vocab": ids, "merges": [], "byte_fallback": true},
        });
        serde_json::from_value::<Tokenizer>(file).unwrap()
    }

    /// Pieces put together are what the tokenizers library decodes, token by token.
    fn agree(decoder: &Value, vocab: &[&str]) -> TokenPieces {
        let tokenizer = tokenizer(decoder, vocab);
        let pieces = pieces(&tokenizer).unwrap();
        let ids = 0..u32::try_from(pieces.len()).unwrap();
        for first in ids.clone() {
            for second in ids.clone() {
                let decoded = tokenizer.decode(&[first, second], true).unwrap();
                let bytes = [pieces.get(first), pieces.get(second)].concat();
                // Libraries differ in how many U+FFFD stand for bytes that are no character.
                let Ok(text) = String::from_utf8(bytes) else { continue };
                assert_eq!(decoded, text, "{first} {second}");
            }
        }
        pieces
    }

    #[test]
    fn pieces_are_the_bytes_that_the_tokenizers_library_decodes() {
        let vocab = ["a", "Ġb", "Ċ", "Ã", "¼", "ł", "<0x41>", "漢"];
        let pieces = agree(
            &json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
            &vocab,
        );
        let expected: [&[u8]; 10] =
            [b"a", b" b", b"\n", &[0xC3], &[0xBC], &[0xA0], b"<0x41>", "漢".as_bytes(), b"", b"<tool>"];
        assert_eq!((0..10).map(|id| pieces.get(id)).collect::<Vec<_>>(), expected);

        let vocab = ["a", "▁b", "▁▁", "<0xC3>", "<0xBC>", "<0x0A>", "<0xZZ>", "漢"];
        let decoders = json!([
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        ]);
        let pieces = agree(&json!({"type": "Sequence", "decoders": decoders}), &vocab);
        let expected: [&[u8]; 10] =
            [b"a", b" b", b"  ", &[0xC3], &[0xBC], b"\n", b"<0xZZ>", "漢".as_bytes(), b"", b"<tool>"];
        assert_eq!((0..10).map(|id| pieces.get(id)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_decoder_that_drops_the_first_space_is_refused_by_name_of_those_that_are_taken() {
        let decoders = json!([
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]);
        for decoder in [json!({"type": "Sequence", "decoders": decoders}), Value::Null] {
            let error = pieces(&tokenizer(&decoder, &["a"])).unwrap_err();
            assert!(matches!(error, BackendError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("ByteLevel") && error.to_string().contains("GGUF"), "{error}");
        }
    }
}
