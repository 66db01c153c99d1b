//! How sure a projection is: [`projection_metrics`].

use super::shared::Targets;
use super::{ProjectionOptions, SharedTokens, mixes};
use crate::{Backend, BackendError, ProjectionError, SoftmaxMix, TokenMix};

/// Rows compared for [`ProjectionMetrics::nearest_cosine`], the most probable ones.
const NEAREST_ROWS: usize = 64;

/// How sure a projection is. Probabilities are those of the target's tokens among the shared ones.
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
    /// Largest cosine between the result and an input embedding of the target, over its most probable rows; where
    /// [`ProjectionOptions::nearest_cosine`] asks for it.
    pub nearest_cosine: Option<f32>,
}

/// Metrics of the projection of one hidden state `[D_source]` over `shared` tokens, whose result is `projected` `[D_target]`.
///
/// # Errors
/// As [`vocabulary_overlap`](crate::vocabulary_overlap), and [`BackendError::Shape`] of more hidden states than one.
pub fn projection_metrics(
    source: &dyn Backend,
    target: &dyn Backend,
    shared: &SharedTokens,
    hidden: &[f32],
    projected: &[f32],
    options: &ProjectionOptions,
) -> Result<ProjectionMetrics, ProjectionError> {
    let dense = ProjectionOptions { left_out: Some(0.0), ..options.clone() };
    let mixes = mixes(source, shared, hidden, &dense)?;
    let [SoftmaxMix::Dense(probabilities)] = mixes.as_slice() else {
        return Err(
            BackendError::Shape { what: "hidden states for metrics", expected: 1, got: mixes.len() }.into()
        );
    };
    let targets = Targets::of(shared);
    let probabilities = targets.sums(probabilities.iter().copied());
    let order = most_probable(&probabilities, NEAREST_ROWS);
    let probability = |rank: usize| order.get(rank).map_or(0.0, |&place| probabilities[place]);
    let nearest = || {
        let ids: Vec<u32> = order.iter().map(|&place| targets.id(place)).collect();
        nearest_cosine(target, &ids, projected)
    };
    Ok(ProjectionMetrics {
        entropy: probabilities.iter().map(|&p| -p * p.max(1e-12).ln()).sum(),
        top_probability: probability(0),
        top2_gap: probability(0) - probability(1),
        hidden_norm: norm(hidden),
        nearest_cosine: options.nearest_cosine.then(nearest).transpose()?,
    })
}

/// Places of the `most` largest values, largest first.
fn most_probable(values: &[f32], most: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let descending = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    if most < order.len() {
        order.select_nth_unstable_by(most, descending);
        order.truncate(most);
    }
    order.sort_unstable_by(descending);
    order
}

fn nearest_cosine(target: &dyn Backend, ids: &[u32], projected: &[f32]) -> Result<f32, ProjectionError> {
    let rows = embeddings(target, ids)?;
    let rows = rows.chunks_exact(projected.len().max(1));
    Ok(rows.map(|row| cosine(row, projected)).fold(f32::NEG_INFINITY, f32::max))
}

/// Input embeddings `[ids.len(), hidden_dim]` of tokens.
pub(super) fn embeddings(target: &dyn Backend, ids: &[u32]) -> Result<Vec<f32>, ProjectionError> {
    let mixes: Vec<TokenMix<'_>> =
        ids.iter().map(|id| TokenMix::Sparse { ids: std::slice::from_ref(id), weights: &[1.0] }).collect();
    Ok(target.embed_mix(&mixes)?)
}

/// Cosine of the angle between two rows; 0 where one is zero.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    dot / (norm(a).max(1e-6) * norm(b).max(1e-6))
}

fn norm(row: &[f32]) -> f32 {
    row.iter().map(|x| x * x).sum::<f32>().sqrt()
}
