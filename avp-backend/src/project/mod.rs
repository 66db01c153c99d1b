//! Projection between models: logits of the one over the tokens that both have, embeddings of the other.

mod cache;
mod gate;
mod metrics;
mod shared;
mod texts;
mod validate;
mod vocabulary;

use avp_wire::Distribution;
use rayon::prelude::*;

pub use cache::{ValidationCache, ValidationKey, validation_texts_hash};
pub use gate::{
    GateMode, GateOptions, GateReason, TransferFacts, UnknownGateMode, Verdict, effective_rank, ending,
};
pub use metrics::{ProjectionMetrics, projection_metrics};
pub use shared::SharedTokens;
pub use texts::{VALIDATION_TEXTS, validation_texts};
pub use validate::{
    MOST_VALIDATION_TEXTS, MOST_VALIDATION_TOKENS, Validation, ValidationText, validate, validate_pair,
    validation_of,
};

pub use vocabulary::token_hashes;

use self::shared::Targets;
use crate::mix::SoftmaxMix;
use crate::realign::{ProjectionError, left_out_bound, scale_to_norm};
use crate::{Backend, BackendError, TokenMix};

/// How a projection is made.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionOptions {
    /// Softmax temperature, positive; low values approach the single most probable token.
    pub temperature: f32,
    /// Norm to scale the result to; `None` leaves it.
    pub target_norm: Option<f32>,
    /// Probability mass that may be left out; `None` takes the source type's bound, 0 forces the dense form.
    pub left_out: Option<f32>,
    /// Whether [`projection_metrics`] compares the result with embeddings of the target, which costs 64 of them.
    pub nearest_cosine: bool,
}

impl Default for ProjectionOptions {
    fn default() -> Self {
        Self { temperature: 1.0, target_norm: None, left_out: None, nearest_cosine: false }
    }
}

/// Vocabulary-mediated projection of hidden states `[n, D_source]` to input embeddings `[n, D_target]`.
///
/// Both models must share a tokenizer. Tables padded to different heights share their first rows.
///
/// # Errors
/// [`ProjectionError`] if logits are not finite or an engine fails.
pub fn vocabulary_mediated(
    source: &dyn Backend,
    target: &dyn Backend,
    hidden: &[f32],
    options: &ProjectionOptions,
) -> Result<Vec<f32>, ProjectionError> {
    let shared = SharedTokens::Same(source.info().vocab_size.min(target.info().vocab_size));
    vocabulary_overlap(source, target, &shared, hidden, options)
}

/// Projection of hidden states `[n, D_source]` to input embeddings `[n, D_target]` over the tokens that two models share: the
/// source's distribution over these alone, and the target's embeddings of them.
///
/// # Errors
/// As [`vocabulary_mediated`], and [`ProjectionError::NothingShared`].
pub fn vocabulary_overlap(
    source: &dyn Backend,
    target: &dyn Backend,
    shared: &SharedTokens,
    hidden: &[f32],
    options: &ProjectionOptions,
) -> Result<Vec<f32>, ProjectionError> {
    let mixes = mixes(source, shared, hidden, options)?;
    let mixes: Vec<SoftmaxMix> = mixes.into_par_iter().map(|mix| in_target(mix, shared)).collect();
    let token_mixes: Vec<TokenMix<'_>> = mixes.iter().map(SoftmaxMix::as_token_mix).collect();
    scaled(target, target.embed_mix(&token_mixes)?, options.target_norm)
}

/// What a sender ships of hidden states `[n, D_source]`: for each the `most` most probable of the shared tokens, in the target's
/// ids, and the mass of all others, those that are not shared included.
///
/// # Errors
/// As [`vocabulary_overlap`].
pub fn distributions(
    source: &dyn Backend,
    shared: &SharedTokens,
    hidden: &[f32],
    most: usize,
    options: &ProjectionOptions,
) -> Result<Vec<Distribution>, ProjectionError> {
    if shared.is_empty() {
        return Err(ProjectionError::NothingShared);
    }
    let targets = Targets::of(shared);
    let vocab_size = source.info().vocab_size;
    let distribution = |row: &[f32]| {
        let probabilities = dense(SoftmaxMix::from_logits(row, options.temperature, 0.0)?);
        let total: f64 = probabilities.iter().map(|p| f64::from(*p)).sum();
        let picked = shared.pick(&probabilities).ok_or_else(|| missing(shared, vocab_size))?;
        most_probable(&targets.sums(picked), &targets, most, total)
    };
    source.logits(hidden)?.par_chunks_exact(vocab_size).map(distribution).collect()
}

/// Input embeddings `[n, D_target]` of distributions that a sender has shipped: the mean over the tokens that came.
///
/// # Errors
/// [`ProjectionError`] if an id is none of the target's, nothing has a probability, or the engine fails.
pub fn embed_distributions(
    target: &dyn Backend,
    distributions: &[Distribution],
    target_norm: Option<f32>,
) -> Result<Vec<f32>, ProjectionError> {
    let weights = |distribution: &Distribution| -> Result<Vec<f32>, ProjectionError> {
        let mass: f64 = distribution.probabilities().iter().map(|p| f64::from(*p)).sum();
        if mass <= 0.0 {
            return Err(ProjectionError::NothingShared);
        }
        Ok(distribution.probabilities().iter().map(|p| (f64::from(*p) / mass) as f32).collect())
    };
    let weights = distributions.iter().map(weights).collect::<Result<Vec<_>, _>>()?;
    let mixes = distributions.iter().zip(&weights);
    let mixes: Vec<TokenMix<'_>> =
        mixes.map(|(distribution, weights)| TokenMix::Sparse { ids: distribution.ids(), weights }).collect();
    scaled(target, target.embed_mix(&mixes)?, target_norm)
}

fn scaled(target: &dyn Backend, mut rows: Vec<f32>, norm: Option<f32>) -> Result<Vec<f32>, ProjectionError> {
    if let Some(norm) = norm {
        let dim = target.info().identity.hidden_dim as usize;
        rows.chunks_exact_mut(dim).for_each(|row| scale_to_norm(row, norm));
    }
    Ok(rows)
}

/// One distribution per hidden state over the shared tokens, by their number among these.
fn mixes(
    source: &dyn Backend,
    shared: &SharedTokens,
    hidden: &[f32],
    options: &ProjectionOptions,
) -> Result<Vec<SoftmaxMix>, ProjectionError> {
    if shared.is_empty() {
        return Err(ProjectionError::NothingShared);
    }
    let left_out = options.left_out.unwrap_or_else(|| left_out_bound(source));
    let vocab_size = source.info().vocab_size;
    let logits = source.logits(hidden)?;
    let mix = |row: &[f32]| {
        let picked = shared.pick(row).ok_or_else(|| missing(shared, vocab_size))?;
        Ok(SoftmaxMix::from_logits(&picked, options.temperature, left_out)?)
    };
    logits.par_chunks_exact(vocab_size).map(mix).collect()
}

fn missing(shared: &SharedTokens, vocab_size: usize) -> BackendError {
    BackendError::Shape { what: "logits of shared tokens", expected: shared.len(), got: vocab_size }
}

/// Every probability of a mix that leaves nothing out.
fn dense(mix: SoftmaxMix) -> Vec<f32> {
    match mix {
        SoftmaxMix::Dense(weights) | SoftmaxMix::Sparse { weights, .. } => weights,
    }
}

/// A distribution over shared tokens as one over the target's ids: of several tokens that stand for one, the sum.
fn in_target(mix: SoftmaxMix, shared: &SharedTokens) -> SoftmaxMix {
    if matches!(shared, SharedTokens::Same(_)) {
        return mix;
    }
    let left_out = mix.left_out();
    let entries: Vec<(u32, f32)> = match mix {
        SoftmaxMix::Sparse { ids, weights, .. } => ids.into_iter().zip(weights).collect(),
        SoftmaxMix::Dense(weights) => (0..).zip(weights).collect(),
    };
    let mut entries: Vec<(u32, f32)> =
        entries.into_iter().map(|(index, weight)| (shared.target(index), weight)).collect();
    entries.sort_unstable_by_key(|entry| entry.0);
    entries.dedup_by(|next, kept| {
        let is_same = next.0 == kept.0;
        kept.1 += if is_same { next.1 } else { 0.0 };
        is_same
    });
    let (ids, weights) = entries.into_iter().unzip();
    SoftmaxMix::Sparse { ids, weights, left_out }
}

/// The `most` largest of `probabilities`, one for each place of `targets`; left out is what they lack of `total`.
fn most_probable(
    probabilities: &[f32],
    targets: &Targets,
    most: usize,
    total: f64,
) -> Result<Distribution, ProjectionError> {
    let mut tokens: Vec<(usize, f32)> = probabilities.iter().copied().enumerate().collect();
    let most = most.clamp(1, tokens.len());
    if most < tokens.len() {
        tokens.select_nth_unstable_by(most, |a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    tokens.truncate(most);
    tokens.sort_unstable_by_key(|token| token.0);
    let kept: f64 = tokens.iter().map(|token| f64::from(token.1)).sum();
    let (ids, probabilities) = tokens.into_iter().map(|(place, p)| (targets.id(place), p)).unzip();
    Ok(Distribution::new(ids, probabilities, (total - kept).max(0.0) as f32)?)
}
