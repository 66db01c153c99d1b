//! Tokens to text as they come: whole UTF-8 characters only, and nothing that belongs to a stop string.

use crate::{BackendError, TextCodec};

/// More undecodable tokens in a row than this are not the parts of one character any more.
const MOST_PENDING: usize = 16;

/// Decodes a growing run of tokens into pieces of text that end at character boundaries.
///
/// A token may hold part of a character only, and a decoder may treat the first token of a text unlike later
/// ones (a leading space), so each piece is the difference of two decodings that start at the same token.
pub struct TextStream<'a> {
    codec: &'a dyn TextCodec,
    ids: Vec<u32>,
    /// Where both decodings start.
    start: usize,
    /// Up to where text has been handed out.
    done: usize,
}

impl<'a> TextStream<'a> {
    /// A stream that has seen nothing; special tokens are left out of the text.
    #[must_use]
    pub fn new(codec: &'a dyn TextCodec) -> Self {
        Self { codec, ids: Vec::new(), start: 0, done: 0 }
    }

    /// Adds a token; returns the text that it completes, possibly empty.
    ///
    /// # Errors
    /// [`BackendError::Tokenizer`] if the codec refuses the id.
    pub fn push(&mut self, id: u32) -> Result<String, BackendError> {
        self.ids.push(id);
        self.take(self.ids.len() - self.done > MOST_PENDING)
    }

    /// The rest: an unfinished character comes out as U+FFFD.
    ///
    /// # Errors
    /// [`BackendError::Tokenizer`] if the codec refuses an id.
    pub fn finish(mut self) -> Result<String, BackendError> {
        self.take(true)
    }

    fn take(&mut self, all: bool) -> Result<String, BackendError> {
        let before = self.codec.decode(&self.ids[self.start..self.done], true)?;
        let now = self.codec.decode(&self.ids[self.start..], true)?;
        if !all && now.ends_with('\u{FFFD}') {
            return Ok(String::new());
        }
        let shared =
            before.chars().zip(now.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let new = now[shared..].to_owned();
        self.start = self.done;
        self.done = self.ids.len();
        Ok(new)
    }
}

/// Finds the first stop string in a streamed text and holds back what may become one.
#[derive(Debug)]
pub(crate) struct StopStrings<'a> {
    stops: &'a [String],
    held: String,
}

impl<'a> StopStrings<'a> {
    pub(crate) fn new(stops: &'a [String]) -> Self {
        Self { stops, held: String::new() }
    }

    /// Text that may go out now, and whether a stop string was reached (its text and what follows are gone).
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let found =
            self.stops.iter().filter(|s| !s.is_empty()).filter_map(|s| self.held.find(s.as_str())).min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| longest_overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, once no more text comes.
    pub(crate) fn finish(self) -> String {
        self.held
    }
}

/// Length of the longest proper prefix of `stop` that `text` ends with.
fn longest_overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).rev().find(|&at| text.ends_with(&stop[..at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::TokenPieces;

    /// One token per byte.
    struct Bytes;

    impl TextCodec for Bytes {
        fn encode(&self, text: &str, _: bool) -> Result<Vec<u32>, BackendError> {
            Ok(text.bytes().map(u32::from).collect())
        }
        fn decode(&self, ids: &[u32], _: bool) -> Result<String, BackendError> {
            let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        fn vocab(&self) -> HashMap<String, u32> {
            HashMap::new()
        }
        fn pieces(&self) -> Result<Arc<TokenPieces>, BackendError> {
            Ok(Arc::new(TokenPieces::new((0..=255).map(|byte| vec![byte]))))
        }
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_text_and_each_is_whole(text in "\\PC{0,40}") {
            let mut stream = TextStream::new(&Bytes);
            let mut joined = String::new();
            for id in Bytes.encode(&text, false).unwrap() {
                let piece = stream.push(id).unwrap();
                let broken = piece.contains('\u{FFFD}') && !text.contains('\u{FFFD}');
                prop_assert!(!broken);
                joined.push_str(&piece);
            }
            joined.push_str(&stream.finish().unwrap());
            prop_assert_eq!(joined, text);
        }

        #[test]
        fn stop_strings_cut_at_the_first_match_however_the_text_is_split(
            text in "[ab<|>]{0,30}", stop in "[ab<|>]{1,4}", sizes in prop::collection::vec(1_usize..5, 1..30),
        ) {
            let stops = vec![stop.clone()];
            let mut filter = StopStrings::new(&stops);
            let mut rest = text.as_str();
            let mut out = String::new();
            let mut stopped = false;
            for size in sizes.iter().cycle() {
                if rest.is_empty() || stopped { break; }
                let (piece, tail) = rest.split_at((*size).min(rest.len()));
                rest = tail;
                let (text, hit) = filter.push(piece);
                out.push_str(&text);
                stopped = hit;
            }
            if !stopped { out.push_str(&filter.finish()); }
            let expected = text.find(&stop).map_or(text.as_str(), |at| &text[..at]);
            prop_assert_eq!(out, expected);
            prop_assert_eq!(stopped, text.contains(&stop));
        }
    }

    #[test]
    fn a_broken_character_comes_out_at_the_end_as_a_replacement() {
        let mut stream = TextStream::new(&Bytes);
        assert_eq!(stream.push(0xC3).unwrap(), "");
        assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
    }
}
