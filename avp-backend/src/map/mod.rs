//! Projection maps: what takes hidden states of one model to input embeddings of another, kept in files.

mod end;
mod error;
mod file;
mod folder;
mod index;
mod judge;
mod linear;
mod tensors;
#[cfg(test)]
mod tests;

use avp_handshake::MIN_SHARED_TOKENS;

pub use end::{MapEnd, ModelKey};
pub use error::{MapError, MapFault};
pub use folder::{ListedMap, MapFolder};

use crate::project::vocabulary_overlap;
use crate::realign::scale_to_norm;
use crate::{
    Backend, BackendError, LinearMap, ModelInfo, NonFinite, ProjectionError, ProjectionOptions, SharedTokens,
    Validation,
};

/// A way from the hidden states of one model to the input embeddings of another.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionMap {
    /// The model whose hidden states go in.
    pub source: MapEnd,
    /// The model whose input embeddings come out.
    pub target: MapEnd,
    /// How.
    pub projection: MapProjection,
    /// Norm that results are scaled to: the mean of the target's input embeddings. A linear map has its own here.
    pub target_norm: Option<f32>,
    /// What the map was found to be worth, where that was measured.
    pub validation: Option<Validation>,
}

/// How a map projects.
#[derive(Clone, Debug, PartialEq)]
pub enum MapProjection {
    /// Over the tokens that both models have.
    Vocabulary(SharedTokens),
    /// By a matrix.
    Linear(LinearMap),
}

impl MapProjection {
    /// `vocab_mediated`, `vocab_overlap` or `linear`.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::Vocabulary(SharedTokens::Same(_)) => "vocab_mediated",
            Self::Vocabulary(SharedTokens::Pairs(_)) => "vocab_overlap",
            Self::Linear(_) => "linear",
        }
    }

    /// How many tokens it goes over, where it goes over tokens.
    #[must_use]
    pub fn shared_tokens(&self) -> Option<usize> {
        match self {
            Self::Vocabulary(shared) => Some(shared.len()),
            Self::Linear(_) => None,
        }
    }
}

impl ProjectionMap {
    /// The map over the vocabulary between two models: over all tokens where both have one tokenizer, else over those that stand
    /// for the same.
    ///
    /// # Errors
    /// [`MapError::TooFewShared`] if these are fewer than [`MIN_SHARED_TOKENS`], [`MapFault::Unidentified`], or an engine fails.
    pub fn between(source: &dyn Backend, target: &dyn Backend) -> Result<Self, MapError> {
        let ends = (MapEnd::of(source.info()), MapEnd::of(target.info()));
        let one_tokenizer =
            !ends.0.tokenizer_hash.is_empty() && ends.0.tokenizer_hash == ends.1.tokenizer_hash;
        let shared = if one_tokenizer {
            SharedTokens::Same(source.info().vocab_size.min(target.info().vocab_size))
        } else {
            SharedTokens::Pairs(pairs(source, target)?)
        };
        if !one_tokenizer && shared.len() < MIN_SHARED_TOKENS {
            return Err(MapError::TooFewShared(shared.len()));
        }
        let map = Self {
            source: ends.0,
            target: ends.1,
            projection: MapProjection::Vocabulary(shared),
            target_norm: Some(target.mean_embedding_norm()?),
            validation: None,
        };
        map.judged()
    }

    /// A map by a matrix that was found elsewhere.
    ///
    /// # Errors
    /// [`MapError::Map`] if it does not fit the two models, or is not finite.
    pub fn linear(source: &ModelInfo, target: &ModelInfo, map: LinearMap) -> Result<Self, MapError> {
        let map = Self {
            source: MapEnd::of(source),
            target: MapEnd::of(target),
            target_norm: Some(map.target_norm()),
            projection: MapProjection::Linear(map),
            validation: None,
        };
        map.judged()
    }

    /// Whether the two are the models that this map is for.
    ///
    /// # Errors
    /// [`MapError::OtherModel`] with what differs.
    pub fn check(&self, source: &ModelInfo, target: &ModelInfo) -> Result<(), MapError> {
        let over_tokens = matches!(self.projection, MapProjection::Vocabulary(_));
        self.source.check("source", source, over_tokens)?;
        self.target.check("target", target, over_tokens)
    }

    /// Input embeddings `[n, D_target]` of hidden states `[n, D_source]`, scaled to `options.target_norm`, or to the map's where
    /// that is not given.
    ///
    /// # Errors
    /// [`ProjectionError::Map`] if the backends are not those of the map; else as
    /// [`vocabulary_overlap`](crate::vocabulary_overlap).
    pub fn apply(
        &self,
        source: &dyn Backend,
        target: &dyn Backend,
        hidden: &[f32],
        options: &ProjectionOptions,
    ) -> Result<Vec<f32>, ProjectionError> {
        self.check(source.info(), target.info())?;
        let target_norm = options.target_norm.or(self.target_norm);
        match &self.projection {
            MapProjection::Vocabulary(shared) => {
                let options = ProjectionOptions { target_norm, ..options.clone() };
                vocabulary_overlap(source, target, shared, hidden, &options)
            }
            MapProjection::Linear(map) => {
                map.fits(self.source.hidden_dim, self.target.hidden_dim).map_err(MapError::from)?;
                linear_rows(map, self.source.hidden_dim, hidden, target_norm)
            }
        }
    }

    fn judged(self) -> Result<Self, MapError> {
        self.judge()?;
        Ok(self)
    }
}

/// Tokens that stand for the same in both, by what they write, or by their strings where that is not known.
fn pairs(source: &dyn Backend, target: &dyn Backend) -> Result<Vec<(u32, u32)>, BackendError> {
    let shared = match SharedTokens::by_meaning(source.codec(), target.codec()) {
        Err(BackendError::Unsupported { .. }) => {
            SharedTokens::by_string(&source.codec().vocab(), &target.codec().vocab())
        }
        shared => shared?,
    };
    let SharedTokens::Pairs(mut pairs) = shared else { return Ok(Vec::new()) };
    // A tokenizer may know tokens that the tables have no rows for, and several names of one.
    let has = |backend: &dyn Backend, id: u32| (id as usize) < backend.info().vocab_size;
    pairs.retain(|&(id, other)| has(source, id) && has(target, other));
    pairs.dedup_by_key(|pair| pair.0);
    Ok(pairs)
}

fn linear_rows(
    map: &LinearMap,
    source_dim: u32,
    hidden: &[f32],
    target_norm: Option<f32>,
) -> Result<Vec<f32>, ProjectionError> {
    let dim = source_dim as usize;
    if !hidden.len().is_multiple_of(dim) {
        let whole = hidden.len().next_multiple_of(dim);
        let error = BackendError::Shape { what: "hidden states", expected: whole, got: hidden.len() };
        return Err(error.into());
    }
    let mut out = Vec::new();
    for state in hidden.chunks_exact(dim) {
        let mut row = map.unscaled(state);
        if let Some(norm) = target_norm {
            scale_to_norm(&mut row, norm);
        }
        if row.iter().any(|x| !x.is_finite()) {
            return Err(NonFinite.into());
        }
        out.append(&mut row);
    }
    Ok(out)
}
