//! The two models of a map: what is kept of each, and how it is told from others.

use super::{MapError, MapFault};
use crate::ModelInfo;

/// Longest text of a field, in bytes.
const MOST_TEXT: usize = 4096;
/// Widest hidden state.
const MOST_DIM: u32 = 1 << 20;
/// Largest vocabulary.
const MOST_ROWS: u32 = 1 << 28;

/// One of the two models of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEnd {
    /// Name of the model, for people.
    pub model_id: String,
    /// SHA-256 of its config, hex; empty where unknown.
    pub model_hash: String,
    /// Fingerprint of its checkpoint, hex, where known.
    pub weights: Option<String>,
    /// SHA-256 of its vocabulary, hex; empty where unknown.
    pub tokenizer_hash: String,
    /// Width of its hidden state, and of its input embeddings.
    pub hidden_dim: u32,
    /// Rows of its tables: ids are below.
    pub rows: u32,
}

impl MapEnd {
    /// What a map keeps of a model.
    #[must_use]
    pub fn of(info: &ModelInfo) -> Self {
        Self {
            model_id: info.identity.model_id.clone(),
            model_hash: info.identity.model_hash.clone(),
            weights: info.weights.clone(),
            tokenizer_hash: info.identity.tokenizer_hash.clone(),
            hidden_dim: info.identity.hidden_dim,
            rows: u32::try_from(info.vocab_size).unwrap_or(u32::MAX),
        }
    }

    /// Whether `info` is this model: equal hashes and weights, where both know them, of which one has to be; and shapes.
    pub(super) fn check(
        &self,
        end: &'static str,
        info: &ModelInfo,
        over_tokens: bool,
    ) -> Result<(), MapError> {
        let model = Self::of(info);
        let differs = |what, map: &str, model: &str| {
            let shown = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
            Err(MapError::OtherModel { end, what, map: shown(map), model: shown(model) })
        };
        let (own, others) = (ModelKey::from(self), ModelKey::from(&model));
        if !agree(own.model_hash, others.model_hash) || !own.is_comparable(&others) {
            return differs("model_hash", own.model_hash, others.model_hash);
        }
        if !agree(own.weights, others.weights) {
            return differs("weights fingerprint", own.weights, others.weights);
        }
        if self.hidden_dim != model.hidden_dim {
            return differs("hidden_dim", &self.hidden_dim.to_string(), &model.hidden_dim.to_string());
        }
        if over_tokens && !agree(&self.tokenizer_hash, &model.tokenizer_hash) {
            return differs("tokenizer_hash", &self.tokenizer_hash, &model.tokenizer_hash);
        }
        // More rows are padding.
        if over_tokens && self.rows > model.rows {
            return differs("number of rows", &self.rows.to_string(), &model.rows.to_string());
        }
        Ok(())
    }

    pub(super) fn judge(&self, end: &'static str) -> Result<(), MapFault> {
        let fault = |name: &str, problem| Err(MapFault::Field { field: format!("{end}.{name}"), problem });
        let weights = self.weights.as_deref();
        let texts = [
            ("model_id", self.model_id.as_str()),
            ("model_hash", &self.model_hash),
            ("weights", weights.unwrap_or_default()),
            ("tokenizer_hash", &self.tokenizer_hash),
        ];
        if let Some((name, _)) = texts.iter().find(|(_, text)| text.len() > MOST_TEXT) {
            return fault(name, "longer than 4096 bytes");
        }
        if weights == Some("") {
            return fault("weights", "empty");
        }
        if self.model_hash.is_empty() && weights.is_none() {
            return Err(MapFault::Unidentified(end));
        }
        if !(1..=MOST_DIM).contains(&self.hidden_dim) {
            return fault("hidden_dim", "no number from 1 to 1048576");
        }
        if !(1..=MOST_ROWS).contains(&self.rows) {
            return fault("rows", "no number from 1 to 268435456");
        }
        Ok(())
    }
}

/// What tells a model from others: its full hash and the fingerprint of its checkpoint, each empty where unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelKey<'a> {
    /// SHA-256 of the config, hex.
    pub model_hash: &'a str,
    /// Fingerprint of the checkpoint, hex.
    pub weights: &'a str,
}

impl ModelKey<'_> {
    /// Whether both may be one model: nothing that both know differs, and there is something that both know.
    pub(super) fn is(&self, other: &ModelKey<'_>) -> bool {
        self.is_comparable(other)
            && agree(self.model_hash, other.model_hash)
            && agree(self.weights, other.weights)
    }

    /// Whether the checkpoints are known to be one.
    pub(super) fn is_verified(&self, other: &ModelKey<'_>) -> bool {
        !self.weights.is_empty() && self.weights == other.weights
    }

    fn is_comparable(&self, other: &ModelKey<'_>) -> bool {
        let both = |a: &str, b: &str| !a.is_empty() && !b.is_empty();
        both(self.model_hash, other.model_hash) || both(self.weights, other.weights)
    }
}

impl<'a> From<&'a MapEnd> for ModelKey<'a> {
    fn from(end: &'a MapEnd) -> Self {
        Self { model_hash: &end.model_hash, weights: end.weights.as_deref().unwrap_or_default() }
    }
}

impl<'a> From<&'a ModelInfo> for ModelKey<'a> {
    fn from(info: &'a ModelInfo) -> Self {
        let weights = info.weights.as_deref().unwrap_or_default();
        Self { model_hash: &info.identity.model_hash, weights }
    }
}

/// A model hash alone.
impl<'a> From<&'a str> for ModelKey<'a> {
    fn from(model_hash: &'a str) -> Self {
        Self { model_hash, weights: "" }
    }
}

fn agree(a: &str, b: &str) -> bool {
    a.is_empty() || b.is_empty() || a == b
}
