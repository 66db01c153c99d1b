//! Projection between models that share a tokenizer: logits of the one, embeddings of the other.

use crate::mix::SoftmaxMix;
use crate::realign::{ProjectionError, left_out_bound, scale_to_norm};
use crate::{Backend, TokenMix};

/// Rows compared for [`ProjectionMetrics::nearest_cosine`], the most probable ones.
const NEAREST_ROWS: usize = 64;

/// How a projection is made.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionOptions {
    /// Softmax temperature, positive; low values approach the single most probable token.
    pub temperature: f32,
    /// Norm to scale the result to; `None` leaves it.
    pub target_norm: Option<f32>,
    /// Probability mass that may be left out; `None` takes the source type's bound, 0 forces the dense form.
    pub left_out: Option<f32>,
}

impl Default for ProjectionOptions {
    fn default() -> Self {
        Self { temperature: 1.0, target_norm: None, left_out: None }
    }
}

/// How sure a projection is.
#[derive(Clone, Debug, PartialEq)]
pub struct ProjectionMetrics {
    /// Entropy of the token distribution, in nats.
    pub entropy: f32,
    /// Largest probability.
    pub top_probability: f32,
    /// Largest minus second-largest probability.
    pub top2_gap: f32,
    /// L2 norm of the hidden state.
    pub hidden_norm: f32,
    /// Largest cosine between the result and an input embedding of the target, over its most probable rows.
    pub nearest_cosine: f32,
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
    let mixes = distributions(source, target, hidden, options)?;
    let token_mixes: Vec<TokenMix<'_>> = mixes.iter().map(SoftmaxMix::as_token_mix).collect();
    let mut rows = target.embed_mix(&token_mixes)?;
    if let Some(norm) = options.target_norm {
        let dim = target.info().identity.hidden_dim as usize;
        rows.chunks_exact_mut(dim).for_each(|row| scale_to_norm(row, norm));
    }
    Ok(rows)
}

/// Metrics of the projection of one hidden state `[D_source]` whose result is `projected` `[D_target]`.
///
/// # Errors
/// As [`vocabulary_mediated`].
pub fn projection_metrics(
    source: &dyn Backend,
    target: &dyn Backend,
    hidden: &[f32],
    projected: &[f32],
    options: &ProjectionOptions,
) -> Result<ProjectionMetrics, ProjectionError> {
    let dense = ProjectionOptions { left_out: Some(0.0), ..options.clone() };
    let mixes = distributions(source, target, hidden, &dense)?;
    let [SoftmaxMix::Dense(probabilities)] = mixes.as_slice() else {
        return Err(crate::BackendError::Shape {
            what: "hidden states for metrics",
            expected: 1,
            got: mixes.len(),
        }
        .into());
    };
    let mut order: Vec<u32> = (0..probabilities.len() as u32).collect();
    let rows = NEAREST_ROWS.min(order.len());
    let descending = |a: &u32, b: &u32| probabilities[*b as usize].total_cmp(&probabilities[*a as usize]);
    if rows < order.len() {
        order.select_nth_unstable_by(rows, descending);
        order.truncate(rows);
    }
    order.sort_unstable_by(descending);
    let probability = |rank: usize| order.get(rank).map_or(0.0, |&id| probabilities[id as usize]);
    Ok(ProjectionMetrics {
        entropy: probabilities.iter().map(|&p| -p * p.max(1e-12).ln()).sum(),
        top_probability: probability(0),
        top2_gap: probability(0) - probability(1),
        hidden_norm: norm(hidden),
        nearest_cosine: nearest_cosine(target, &order, projected)?,
    })
}

/// One distribution per hidden state over the tokens that both tables hold.
fn distributions(
    source: &dyn Backend,
    target: &dyn Backend,
    hidden: &[f32],
    options: &ProjectionOptions,
) -> Result<Vec<SoftmaxMix>, ProjectionError> {
    let left_out = options.left_out.unwrap_or_else(|| left_out_bound(source));
    let shared = source.info().vocab_size.min(target.info().vocab_size);
    let logits = source.logits(hidden)?;
    let rows = logits.chunks_exact(source.info().vocab_size);
    rows.map(|row| Ok(SoftmaxMix::from_logits(&row[..shared], options.temperature, left_out)?)).collect()
}

fn nearest_cosine(target: &dyn Backend, ids: &[u32], projected: &[f32]) -> Result<f32, ProjectionError> {
    let mixes: Vec<TokenMix<'_>> =
        ids.iter().map(|id| TokenMix::Sparse { ids: std::slice::from_ref(id), weights: &[1.0] }).collect();
    let rows = target.embed_mix(&mixes)?;
    let length = norm(projected).max(1e-6);
    let cosine = |row: &[f32]| {
        row.iter().zip(projected).map(|(a, b)| a * b).sum::<f32>() / (norm(row).max(1e-6) * length)
    };
    Ok(rows.chunks_exact(projected.len()).map(cosine).fold(f32::NEG_INFINITY, f32::max))
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>().sqrt()
}
