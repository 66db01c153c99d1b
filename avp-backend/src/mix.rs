//! Softmax over logits, kept as few token ids as carry the mass: the middle of every projection.

use crate::exp::Exponentials;
use crate::{NonFinite, TokenMix};

/// Mass that a mix may leave out where the engine computes in f32.
pub const LEFT_OUT_F32: f32 = 1e-6;
/// Mass that a mix may leave out where the engine computes in a half type.
pub const LEFT_OUT_HALF: f32 = 1e-4;

/// More kept ids than this share of the vocabulary, and the dense product is cheaper than the sparse one: rows here and there
/// come from memory about half as fast as all in their order.
const DENSE_SHARE: usize = 2;

/// A probability distribution over token ids, ready for [`Backend::embed_mix`](crate::Backend::embed_mix).
#[derive(Clone, Debug, PartialEq)]
pub enum SoftmaxMix {
    /// The fewest ids whose left-out mass is within the bound, ids ascending.
    Sparse {
        /// Token ids, ascending.
        ids: Vec<u32>,
        /// Their probabilities; they sum to `1 - left_out`.
        weights: Vec<f32>,
        /// Probability mass of the ids not kept.
        left_out: f32,
    },
    /// Probability of every id.
    Dense(Vec<f32>),
}

impl SoftmaxMix {
    /// Softmax of `logits / temperature`, keeping the fewest ids whose left-out mass is at most `left_out`;
    /// dense when more than half of the vocabulary would remain. `left_out = 0` forces dense.
    ///
    /// # Errors
    /// [`NonFinite`] if a logit is NaN or infinite.
    ///
    /// # Panics
    /// If `temperature` is not positive.
    pub fn from_logits(logits: &[f32], temperature: f32, left_out: f32) -> Result<Self, NonFinite> {
        assert!(temperature > 0.0, "temperature must be positive, got {temperature}");
        let Exponentials { values: mut exps, total } = Exponentials::of(logits, temperature)?;
        let scale = (1.0 / total) as f32;
        if left_out > 0.0
            && let Some(kept) = Kept::fewest(&exps, f64::from(left_out) * total, logits.len() / DENSE_SHARE)
        {
            let ids: Vec<u32> = kept.ids(&exps);
            let weights = ids.iter().map(|&id| exps[id as usize] * scale).collect();
            return Ok(Self::Sparse { ids, weights, left_out: (kept.left_out / total) as f32 });
        }
        exps.iter_mut().for_each(|e| *e *= scale);
        Ok(Self::Dense(exps))
    }

    /// The form that [`Backend::embed_mix`](crate::Backend::embed_mix) takes.
    #[must_use]
    pub fn as_token_mix(&self) -> TokenMix<'_> {
        match self {
            Self::Sparse { ids, weights, .. } => TokenMix::Sparse { ids, weights },
            Self::Dense(weights) => TokenMix::Dense(weights),
        }
    }

    /// Number of ids kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        match self {
            Self::Sparse { ids, .. } => ids.len(),
            Self::Dense(weights) => weights.len(),
        }
    }

    /// Probability mass left out.
    #[must_use]
    pub fn left_out(&self) -> f32 {
        match self {
            Self::Sparse { left_out, .. } => *left_out,
            Self::Dense(_) => 0.0,
        }
    }
}

/// Bits of an f32 that choose its bin: the exponent and three bits of the mantissa. The values are in
/// [0, 1], whose bit patterns order as the values do.
const BIN_SHIFT: u32 = 20;
const BINS: usize = (0x3F80_0000 >> BIN_SHIFT) + 1;

/// Which values are kept: all from `threshold` up, and of those equal to it only `at_threshold`.
struct Kept {
    threshold: f32,
    at_threshold: usize,
    left_out: f64,
}

impl Kept {
    /// The fewest values whose complement sums to at most `budget`, or `None` if more than `most` remain.
    ///
    /// A histogram over the exponents finds the boundary, so that only one bin needs sorting.
    fn fewest(exps: &[f32], budget: f64, most: usize) -> Option<Self> {
        let mut counts = [0_u32; BINS];
        let mut masses = [0_f64; BINS];
        for &e in exps {
            let bin = (e.to_bits() >> BIN_SHIFT) as usize;
            counts[bin] += 1;
            masses[bin] += f64::from(e);
        }
        let mut left_out = 0.0;
        let mut dropped = 0_usize;
        let boundary = (0..BINS).find(|&bin| {
            let fits = left_out + masses[bin] <= budget;
            if fits {
                left_out += masses[bin];
                dropped += counts[bin] as usize;
            }
            !fits
        })?;
        let mut edge: Vec<f32> =
            exps.iter().copied().filter(|e| (e.to_bits() >> BIN_SHIFT) as usize == boundary).collect();
        edge.sort_unstable_by(f32::total_cmp);
        let mut first_kept = 0;
        while left_out + f64::from(edge[first_kept]) <= budget {
            left_out += f64::from(edge[first_kept]);
            first_kept += 1;
        }
        let kept = exps.len() - dropped - first_kept;
        let threshold = edge[first_kept];
        let at_threshold = edge[first_kept..].iter().take_while(|&&e| e == threshold).count();
        (kept <= most).then_some(Self { threshold, at_threshold, left_out })
    }

    fn ids(&self, exps: &[f32]) -> Vec<u32> {
        let mut ties = self.at_threshold;
        let mut ids = Vec::new();
        for (id, &e) in (0_u32..).zip(exps) {
            if e > self.threshold {
                ids.push(id);
            } else if e == self.threshold && ties > 0 {
                ties -= 1;
                ids.push(id);
            }
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn probabilities(logits: &[f32]) -> Vec<f64> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f64> = logits.iter().map(|&l| f64::from(l - max).exp()).collect();
        let total: f64 = exps.iter().sum();
        exps.iter().map(|e| e / total).collect()
    }

    proptest! {
        #[test]
        fn sparse_mix_keeps_the_fewest_ids_within_the_bound(
            logits in prop::collection::vec(-30.0_f32..30.0, 64..400),
            left_out in 1e-6_f32..0.3,
        ) {
            let exact = probabilities(&logits);
            let mix = SoftmaxMix::from_logits(&logits, 1.0, left_out).unwrap();
            let mut sorted = exact.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let mut sum = 0.0;
            let droppable = sorted.iter().take_while(|&&p| { sum += p; sum <= f64::from(left_out) }).count();
            let fewest = logits.len() - droppable;
            match &mix {
                SoftmaxMix::Sparse { ids, weights, left_out: left } => {
                    // Rounding may move a value across an edge it is within f32 precision of.
                    prop_assert!(ids.len().abs_diff(fewest) <= 1);
                    prop_assert!(*left <= left_out * 1.0001);
                    prop_assert!(ids.windows(2).all(|w| w[0] < w[1]));
                    for (&id, &w) in ids.iter().zip(weights) {
                        prop_assert!((f64::from(w) - exact[id as usize]).abs() < 1e-6);
                    }
                }
                SoftmaxMix::Dense(weights) => {
                    prop_assert!(fewest + 1 > logits.len() / DENSE_SHARE);
                    prop_assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-4);
                }
            }
        }
    }

    #[test]
    fn ties_at_the_edge_are_kept_only_as_far_as_needed() {
        let mut logits = vec![-100.0; 100];
        logits[7] = 0.0;
        logits[9] = 0.0;
        logits[3] = -3.0;
        logits[4] = -3.0;
        let mix = SoftmaxMix::from_logits(&logits, 1.0, 0.03).unwrap();
        assert!(matches!(&mix, SoftmaxMix::Sparse { ids, .. } if ids == &[4, 7, 9] || ids == &[3, 7, 9]));
    }

    #[test]
    fn flat_logits_and_a_zero_bound_give_the_dense_form() {
        assert_eq!(SoftmaxMix::from_logits(&[0.0; 64], 1.0, 1e-6).unwrap().kept(), 64);
        let mut peaked = vec![-50.0; 64];
        peaked[5] = 0.0;
        assert_eq!(SoftmaxMix::from_logits(&peaked, 1.0, 1e-6).unwrap().kept(), 1);
        assert_eq!(SoftmaxMix::from_logits(&peaked, 1.0, 0.0).unwrap().kept(), 64);
    }

    #[test]
    fn a_non_finite_logit_is_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(SoftmaxMix::from_logits(&[0.0, bad, 1.0], 1.0, 1e-6), Err(NonFinite));
        }
    }
}
