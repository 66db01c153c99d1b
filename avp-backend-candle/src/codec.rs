//! The tokenizer of a model folder.

use std::collections::HashMap;
use std::path::Path;

use avp_backend::{BackendError, TextCodec};
use tokenizers::Tokenizer;

use crate::config::json::{invalid, read_file};

/// `tokenizer.json`, through the `tokenizers` crate.
#[derive(Debug)]
pub(crate) struct HfCodec {
    tokenizer: Tokenizer,
}

impl HfCodec {
    pub(crate) fn load(path: &Path) -> Result<Self, BackendError> {
        let bytes = read_file(path)?;
        let mut tokenizer = Tokenizer::from_bytes(bytes)
            .map_err(|e| invalid(path, format!("is not a tokenizer of the tokenizers library: {e}")))?;
        // Some files ask to cut or fill every input to the length of their training batches.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| invalid(path, e.to_string()))?;
        Ok(Self { tokenizer })
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
        let encoding = self.tokenizer.encode_fast(text, add_special);
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| BackendError::Tokenizer(e.to_string()))
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, BackendError> {
        self.tokenizer.decode(ids, skip_special).map_err(|e| BackendError::Tokenizer(e.to_string()))
    }

    fn vocab(&self) -> HashMap<String, u32> {
        self.tokenizer.get_vocab(true).into_iter().collect()
    }
}
