//! Choosing the next token: greedy, or temperature with top-k and top-p.

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::NonFinite;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// 0 is greedy; 1 samples from the model's own distribution.
    pub temperature: f32,
    /// Keep only the most probable tokens up to this probability mass; 1 keeps all.
    pub top_p: f32,
    /// Keep only this many of the most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Seed of the random choice: the same seed, model and prompt give the same tokens.
    pub seed: u64,
}

impl Default for SamplingOptions {
    /// Temperature 0.7 and top-p 0.95, the reference SDK's defaults.
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.95, top_k: 0, seed: 0 }
    }
}

impl SamplingOptions {
    /// Always the most probable token.
    #[must_use]
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }
}

pub(crate) struct Sampler {
    options: SamplingOptions,
    rng: ChaCha8Rng,
}

impl Sampler {
    pub(crate) fn new(options: SamplingOptions) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(options.seed);
        Self { options, rng }
    }

    /// Whether the most probable token is always the next.
    pub(crate) fn is_greedy(&self) -> bool {
        self.options.temperature <= 0.0
    }

    /// The next token id for `logits` `[vocab_size]`. One whose logit is negative infinity is never chosen.
    pub(crate) fn next(&mut self, logits: &[f32]) -> Result<u32, NonFinite> {
        let best = argmax(logits)?;
        if self.is_greedy() {
            return Ok(best);
        }
        let candidates = self.candidates(logits, logits[best as usize]);
        let total: f64 = candidates.iter().map(|&(_, weight)| weight).sum();
        let mut left = self.rng.random::<f64>() * total;
        for &(id, weight) in &candidates {
            left -= weight;
            if left < 0.0 {
                return Ok(id);
            }
        }
        Ok(best)
    }

    /// Ids with unnormalised probabilities, most probable first, cut by top-k, then by top-p.
    fn candidates(&self, logits: &[f32], max: f32) -> Vec<(u32, f64)> {
        let inverse = 1.0 / f64::from(self.options.temperature);
        let mut all: Vec<(u32, f64)> =
            (0_u32..).zip(logits).map(|(id, &l)| (id, (f64::from(l - max) * inverse).exp())).collect();
        let by_weight = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let top_k = self.options.top_k;
        if top_k > 0 && top_k < all.len() {
            all.select_nth_unstable_by(top_k - 1, by_weight);
            all.truncate(top_k);
        }
        all.sort_unstable_by(by_weight);
        let mass: f64 = all.iter().map(|&(_, weight)| weight).sum::<f64>() * f64::from(self.options.top_p);
        let mut sum = 0.0;
        let reached = all.iter().position(|&(_, weight)| {
            sum += weight;
            sum >= mass
        });
        all.truncate(reached.map_or(all.len(), |last| last + 1));
        all
    }
}

/// Index of the largest logit, the lowest one of equals.
pub(crate) fn argmax(logits: &[f32]) -> Result<u32, NonFinite> {
    let mut best = (0_u32, f32::NEG_INFINITY);
    for (id, &logit) in (0_u32..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(NonFinite);
        }
        if logit > best.1 {
            best = (id, logit);
        }
    }
    if best.1 == f32::NEG_INFINITY { Err(NonFinite) } else { Ok(best.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, -1.0, 2.0];

    fn draw(options: SamplingOptions, n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(options);
        (0..n).map(|_| sampler.next(&LOGITS).unwrap()).collect()
    }

    #[test]
    fn temperature_zero_takes_the_lowest_of_the_largest() {
        assert_eq!(draw(SamplingOptions::greedy(), 3), [1, 1, 1]);
    }

    #[test]
    fn one_seed_gives_one_sequence_and_another_seed_another() {
        let options = |seed| SamplingOptions { temperature: 1.0, top_p: 1.0, top_k: 0, seed };
        assert_eq!(draw(options(1), 64), draw(options(1), 64));
        assert_ne!(draw(options(1), 64), draw(options(2), 64));
    }

    #[test]
    fn top_k_and_top_p_leave_the_tail_out() {
        let top_k = SamplingOptions { temperature: 1.0, top_p: 1.0, top_k: 2, seed: 3 };
        assert!(draw(top_k, 200).iter().all(|id| [1, 4].contains(id)));
        // The two largest hold 76 % of the mass: 0.7 keeps both, 0.3 only the first.
        let top_p = |top_p| SamplingOptions { temperature: 1.0, top_p, top_k: 0, seed: 3 };
        assert!(draw(top_p(0.7), 200).iter().all(|id| [1, 4].contains(id)));
        assert!(draw(top_p(0.7), 200).contains(&4));
        assert!(draw(top_p(0.3), 200).iter().all(|&id| id == 1));
    }

    #[test]
    fn sampled_frequencies_follow_the_softmax() {
        let drawn = draw(SamplingOptions { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 5 }, 20_000);
        let total: f64 = LOGITS.iter().map(|&l| f64::from(l).exp()).sum();
        for (id, &logit) in (0_u32..).zip(&LOGITS) {
            let expected = f64::from(logit).exp() / total;
            let seen = drawn.iter().filter(|&&d| d == id).count() as f64 / 20_000.0;
            assert!((seen - expected).abs() < 0.015, "{id}: {seen} against {expected}");
        }
    }

    #[test]
    fn nan_logits_are_an_error_not_a_token() {
        let mut sampler = Sampler::new(SamplingOptions::greedy());
        assert_eq!(sampler.next(&[0.0, f32::NAN]), Err(NonFinite));
        assert_eq!(sampler.next(&[f32::NEG_INFINITY; 2]), Err(NonFinite));
    }
}
