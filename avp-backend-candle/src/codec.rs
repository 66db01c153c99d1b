//! The tokenizer of a model folder.

#![cfg_attr(not(test), deny(clippy::as_conversions))]

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use avp_backend::{BackendError, TextCodec, TokenPieces};
use tokenizers::Tokenizer;

use crate::config::json::{invalid, read_file};
use crate::pieces::{inner_pieces, pieces};

/// `tokenizer.json`, through the `tokenizers` crate.
#[derive(Debug)]
pub(crate) struct HfCodec {
    tokenizer: Tokenizer,
    /// Made when the first grammar asks.
    pieces: OnceLock<Arc<TokenPieces>>,
}

impl HfCodec {
    pub(crate) fn load(path: &Path) -> Result<Self, BackendError> {
        Self::parse(path, read_file(path)?)
    }

    /// `bytes` of `tokenizer.json` at `path` (for messages).
    pub(crate) fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self, BackendError> {
        // The tokenizers library panics on some files that are not JSON, or JSON of unforeseen form.
        if let Err(e) = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
            return Err(invalid(path, format!("is not valid JSON: {e}")));
        }
        let problem = |e: String| invalid(path, format!("is not a tokenizer of the tokenizers library: {e}"));
        let mut tokenizer = guarded(|| Tokenizer::from_bytes(bytes)).map_err(problem)?;
        // Some files ask to cut or fill every input to the length of their training batches.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| invalid(path, e.to_string()))?;
        Ok(Self { tokenizer, pieces: OnceLock::new() })
    }

    /// Id of an added token, e.g. `<|im_end|>`.
    pub(crate) fn added_token(&self, token: &str) -> Option<u32> {
        let added = self.tokenizer.get_added_tokens_decoder();
        added.into_iter().find(|(_, t)| t.content == token).map(|(id, _)| id)
    }

    /// Id of any token string.
    pub(crate) fn token(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }
}

impl TextCodec for HfCodec {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, BackendError> {
        let encoding = guarded(|| self.tokenizer.encode_fast(text, add_special));
        encoding.map(|e| e.get_ids().to_vec()).map_err(BackendError::Tokenizer)
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, BackendError> {
        guarded(|| self.tokenizer.decode(ids, skip_special)).map_err(BackendError::Tokenizer)
    }

    fn vocab(&self) -> HashMap<String, u32> {
        self.tokenizer.get_vocab(true).into_iter().collect()
    }

    fn pieces(&self) -> Result<Arc<TokenPieces>, BackendError> {
        if let Some(pieces) = self.pieces.get() {
            return Ok(Arc::clone(pieces));
        }
        let made = Arc::new(pieces(&self.tokenizer)?);
        Ok(Arc::clone(self.pieces.get_or_init(|| made)))
    }

    fn inner_pieces(&self) -> Result<Arc<TokenPieces>, BackendError> {
        match self.pieces() {
            Ok(pieces) => Ok(pieces),
            Err(_) => Ok(Arc::new(inner_pieces(&self.tokenizer)?)),
        }
    }
}

/// Runs a call of the tokenizers library, whose panics on odd model files become errors.
fn guarded<T>(call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned()),
        Err(_) => Err("the tokenizers library cannot handle it".to_owned()),
    }
}
