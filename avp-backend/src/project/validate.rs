//! Whether a projection between two models is worth anything: measured once for each pair, on a few texts.
//!
//! The source says what it expects after each token of a text ([`validation_of`]), in the target's ids; the target compares that
//! with what came ([`validate`]). Only what is said has to cross between two processes.

use super::metrics::{cosine, embeddings};
use super::texts::validation_texts;
use super::{ProjectionOptions, SharedTokens, distributions, embed_distributions};
use crate::{Backend, BackendError, Input, NonFinite, ProjectionError};
use avp_wire::Distribution;

/// Most texts that are validated with.
pub const MOST_VALIDATION_TEXTS: usize = 16;
/// Tokens of a text that are read, the SDK's number.
pub const MOST_VALIDATION_TOKENS: usize = 128;
/// Least cosine for which a perplexity is measured, the SDK's number.
pub(super) const LEAST_COSINE: f32 = 0.5;
/// Tokens of a distribution where both models are in one process: as many as are shipped.
const MOST_IDS: usize = 1024;
/// Hidden states of which logits are held at once.
const CHUNK: usize = 16;

/// What the projection of one model into another was found to be worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// Mean cosine of projected hidden states with the target's embeddings of the tokens that follow.
    pub cosine: f32,
    /// How surprised the target is by a text after the projection of its end; where both have one tokenizer.
    pub perplexity: Option<f32>,
}

/// A text, and what a source expects in it, for a target that does not have the source.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidationText {
    /// The text's tokens in the source, each by the target's id; `None` where the target does not have it.
    pub tokens: Vec<Option<u32>>,
    /// What the source expects after each of them, in the target's ids.
    pub expected: Vec<Distribution>,
}

/// What `source` expects in `texts` of the tokens that it shares with a target, the `most` most probable of them at each place.
///
/// Texts are read up to [`MOST_VALIDATION_TOKENS`] tokens; those that have none are left out, and so are those beyond
/// [`MOST_VALIDATION_TEXTS`].
///
/// # Errors
/// [`ProjectionError`] if nothing is shared, logits are not finite, or the engine fails.
pub fn validation_of(
    source: &dyn Backend,
    shared: &SharedTokens,
    texts: &[String],
    most: usize,
) -> Result<Vec<ValidationText>, ProjectionError> {
    let options = ProjectionOptions::default();
    let states = CHUNK * source.info().identity.hidden_dim as usize;
    let mut found = Vec::new();
    for text in texts.iter().take(MOST_VALIDATION_TEXTS) {
        let mut tokens = source.codec().encode(text, true)?;
        tokens.truncate(MOST_VALIDATION_TOKENS.min(source.info().max_positions));
        if tokens.is_empty() {
            continue;
        }
        let hidden = source.new_sequence(tokens.len())?.forward_all(Input::Tokens(&tokens))?;
        let mut expected = Vec::with_capacity(tokens.len());
        for hidden in hidden.chunks(states) {
            expected.extend(distributions(source, shared, hidden, most, &options)?);
        }
        let tokens = tokens.into_iter().map(|token| shared.target_of(token)).collect();
        found.push(ValidationText { tokens, expected });
    }
    Ok(found)
}

/// What a projection into `target` is worth, by what a source expects in `texts`.
///
/// The cosine is that of what is expected after a token with the embedding of the token that follows, where the target has that:
/// the mean over a text, and over texts. The perplexity is measured where the cosine is at least 0.5 and the target has every
/// token: that of a text after what the source expects at its end, the mean over texts.
///
/// # Errors
/// [`ProjectionError`] if there are more texts or tokens than are validated with, as many distributions as tokens are not there,
/// an id is none of the target's, logits are not finite, or the engine fails.
pub fn validate(target: &dyn Backend, texts: &[ValidationText]) -> Result<Validation, ProjectionError> {
    check(target, texts)?;
    let cosines = texts.iter().map(|text| mean_cosine(target, text)).collect::<Result<Vec<_>, _>>()?;
    let cosine = mean(&cosines);
    let whole: Option<Vec<Vec<u32>>> =
        texts.iter().map(|text| text.tokens.iter().copied().collect()).collect();
    let perplexity = match whole {
        Some(tokens) if cosine >= LEAST_COSINE => {
            let each = texts.iter().zip(&tokens).map(|(text, tokens)| perplexity(target, text, tokens));
            Some(mean(&each.collect::<Result<Vec<_>, _>>()?))
        }
        _ => None,
    };
    Ok(Validation { cosine, perplexity })
}

/// What the projection of `source` into `target` is worth, by the source's [`validation_texts`].
///
/// # Errors
/// As [`validation_of`] and [`validate`].
pub fn validate_pair(
    source: &dyn Backend,
    target: &dyn Backend,
    shared: &SharedTokens,
) -> Result<Validation, ProjectionError> {
    let texts = validation_texts(source.info());
    validate(target, &validation_of(source, shared, &texts, MOST_IDS)?)
}

fn check(target: &dyn Backend, texts: &[ValidationText]) -> Result<(), BackendError> {
    let at_most = |what, expected, got| {
        if got > expected { Err(BackendError::Shape { what, expected, got }) } else { Ok(()) }
    };
    at_most("validation texts, at most", MOST_VALIDATION_TEXTS, texts.len())?;
    let vocab_size = target.info().vocab_size;
    for text in texts {
        let (expected, got) = (text.tokens.len(), text.expected.len());
        at_most("tokens of a validation text, at most", MOST_VALIDATION_TOKENS, expected)?;
        if expected != got || expected == 0 {
            let what = "distributions of a validation text, one for each token";
            return Err(BackendError::Shape { what, expected, got });
        }
        let ids = text.expected.iter().flat_map(Distribution::ids).chain(text.tokens.iter().flatten());
        if let Some(&id) = ids.into_iter().find(|id| **id as usize >= vocab_size) {
            return Err(BackendError::TokenId { id, vocab_size });
        }
    }
    Ok(())
}

/// 0 of nothing.
fn mean(values: &[f32]) -> f32 {
    let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
    (sum / values.len().max(1) as f64) as f32
}

fn has_mass(distribution: &Distribution) -> bool {
    distribution.probabilities().iter().any(|p| *p > 0.0)
}

/// Where nothing that is shared is expected the cosine is 0.
fn mean_cosine(target: &dyn Backend, text: &ValidationText) -> Result<f32, ProjectionError> {
    let following = text.expected.iter().zip(text.tokens.iter().skip(1));
    let following = following.filter_map(|(expected, next)| Some((expected, (*next)?)));
    let positions = following.clone().count();
    let (expected, next): (Vec<Distribution>, Vec<u32>) =
        following.filter(|(expected, _)| has_mass(expected)).map(|(e, next)| (e.clone(), next)).unzip();
    if next.is_empty() {
        return Ok(0.0);
    }
    let dim = (target.info().identity.hidden_dim as usize).max(1);
    let projected = embed_distributions(target, &expected, None)?;
    let actual = embeddings(target, &next)?;
    let pairs = projected.chunks_exact(dim).zip(actual.chunks_exact(dim));
    let sum: f64 = pairs.map(|(a, b)| f64::from(cosine(a, b))).sum();
    Ok((sum / positions as f64) as f32)
}

/// Perplexity of `tokens` after what the source expects at their end.
fn perplexity(target: &dyn Backend, text: &ValidationText, tokens: &[u32]) -> Result<f32, ProjectionError> {
    let Some(last) = text.expected.last().filter(|last| has_mass(last)) else { return Ok(f32::MAX) };
    // The last token is foretold, not read.
    let tokens = tokens.get(..target.info().max_positions).unwrap_or(tokens);
    let (_, read) = tokens.split_last().ok_or(ProjectionError::NothingShared)?;
    let mut sequence = target.new_sequence(tokens.len())?;
    let embedding = embed_distributions(target, std::slice::from_ref(last), None)?;
    let mut hidden = sequence.forward_all(Input::Embeddings(&embedding))?;
    if !read.is_empty() {
        hidden.extend(sequence.forward_all(Input::Tokens(read))?);
    }
    let (states, vocab_size) = (CHUNK * target.info().identity.hidden_dim as usize, target.info().vocab_size);
    let mut loss = 0.0;
    for (hidden, tokens) in hidden.chunks(states).zip(tokens.chunks(CHUNK)) {
        let logits = target.logits(hidden)?;
        for (row, token) in logits.chunks_exact(vocab_size).zip(tokens) {
            loss += surprise(row, *token)?;
        }
    }
    Ok(((loss / tokens.len() as f64).exp() as f32).min(f32::MAX))
}

/// Cross-entropy of a token, in nats.
fn surprise(logits: &[f32], token: u32) -> Result<f64, NonFinite> {
    let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - largest).exp()).sum();
    let logit = logits.get(token as usize).copied().ok_or(NonFinite)?;
    let surprise = largest + sum.ln() - f64::from(logit);
    if surprise.is_finite() { Ok(surprise) } else { Err(NonFinite) }
}
