//! The tokenizer of a GGUF, as llama.cpp runs it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use avp_backend::{BackendError, TextCodec, TokenPieces};
use unicode_normalization::UnicodeNormalization;

use crate::ffi::Model;

/// Text to token ids and back.
pub(crate) struct GgufCodec {
    model: Arc<Model>,
    vocab: HashMap<String, u32>,
    /// Whether the tokenizer that the file was made of composes characters first (NFC), which llama.cpp leaves out.
    composes: bool,
    /// Made when the first grammar asks.
    pieces: OnceLock<Arc<TokenPieces>>,
}

impl GgufCodec {
    pub(crate) fn new(model: Arc<Model>, vocab: HashMap<String, u32>, pre_tokenizer: Option<&str>) -> Self {
        let composes = matches!(pre_tokenizer, Some("qwen2" | "qwen35"));
        Self { model, vocab, composes, pieces: OnceLock::new() }
    }
}

impl TextCodec for GgufCodec {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, BackendError> {
        let ids = match self.composes && !text.is_ascii() {
            true => self.model.tokenize(&text.nfc().collect::<String>(), add_special),
            false => self.model.tokenize(text, add_special),
        };
        ids.ok_or_else(|| BackendError::Tokenizer("the text is too long; give it in parts".into()))
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, BackendError> {
        let mut bytes = Vec::new();
        for &id in ids {
            let unknown = || BackendError::TokenId { id, vocab_size: self.model.vocab_size() };
            bytes.append(&mut self.model.piece(id, skip_special).ok_or_else(unknown)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn vocab(&self) -> HashMap<String, u32> {
        self.vocab.clone()
    }

    fn pieces(&self) -> Result<Arc<TokenPieces>, BackendError> {
        let pieces = self.pieces.get_or_init(|| {
            let ids = 0..u32::try_from(self.model.vocab_size()).unwrap_or(u32::MAX);
            Arc::new(TokenPieces::new(ids.map(|id| self.model.piece(id, true).unwrap_or_default())))
        });
        Ok(Arc::clone(pieces))
    }
}
