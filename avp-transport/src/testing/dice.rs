//! Randomness that a seed repeats.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A source of random choices. The same seed and path give the same choices, whatever ran before.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    /// The dice of one part of a run, such as `[transfer, direction]`.
    #[must_use]
    pub fn new(seed: u64, path: &[u64]) -> Self {
        // The finalizer of SplitMix64, so that neighbouring paths have nothing in common.
        let mix = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let step = |state: u64, part: &u64| mix(state.wrapping_add(0x9E37_79B9_7F4A_7C15) ^ mix(*part));
        Self(StdRng::seed_from_u64(path.iter().fold(mix(seed), step)))
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.random_range(0..end) }
    }

    /// A number below `end`, each power of two as likely as the next: as many small ones as large ones.
    pub fn below_by_magnitude(&mut self, end: u64) -> u64 {
        let magnitudes = u64::from(u64::BITS - end.leading_zeros());
        let top = 1_u64.checked_shl(self.below(magnitudes + 1) as u32).unwrap_or(u64::MAX);
        self.below(top.min(end))
    }

    /// Yes, with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.0.random::<f64>() < probability
    }

    /// A time up to `longest`.
    pub fn time(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.0.random::<f64>())
    }

    /// Any bits.
    pub fn bits(&mut self) -> u64 {
        self.0.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_path_repeat_and_others_differ() {
        let first = |seed, path: &[u64]| Dice::new(seed, path).bits();
        assert_eq!(first(7, &[1, 2]), first(7, &[1, 2]));
        let all: std::collections::HashSet<u64> =
            (0..50).flat_map(|a| (0..50).map(move |b| first(7, &[a, b]))).collect();
        assert_eq!(all.len(), 2500);
        assert_ne!(first(7, &[1, 2]), first(7, &[2, 1]));
    }

    #[test]
    fn magnitudes_are_spread_and_bounded() {
        let mut dice = Dice::new(1, &[]);
        let drawn: Vec<u64> = (0..10_000).map(|_| dice.below_by_magnitude(4 << 20)).collect();
        assert!(drawn.iter().all(|&value| value < 4 << 20));
        let small = drawn.iter().filter(|&&value| value < 1 << 10).count();
        assert!((3000..7000).contains(&small), "{small} of 10,000 are below 1 KiB");
        assert!(drawn.iter().any(|&value| value > 2 << 20) && drawn.contains(&0));
    }
}
