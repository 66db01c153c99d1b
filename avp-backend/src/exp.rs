//! Exponentials of logits in vector registers: the part of a softmax that would else take most of its time.

use pulp::Arch;

use crate::NonFinite;

/// Values that are gone through at once, as many as the widest registers hold.
const LANES: usize = 16;

/// What a softmax divides: the exponentials, at most 1, and their sum.
pub(crate) struct Exponentials {
    pub(crate) values: Vec<f32>,
    pub(crate) total: f64,
}

impl Exponentials {
    /// `exp((l - max) / temperature)` of each logit.
    ///
    /// # Errors
    /// [`NonFinite`] if a logit is NaN or infinite, or if there is none.
    pub(crate) fn of(logits: &[f32], temperature: f32) -> Result<Self, NonFinite> {
        let max = Arch::new().dispatch(|| largest(logits)).ok_or(NonFinite)?;
        // Of a temperature next to 0 that would be infinite, and the largest logit's exponential NaN.
        let inverse = (1.0 / temperature).min(f32::MAX);
        let mut values = vec![0f32; logits.len()];
        let total = Arch::new().dispatch(|| exponentials(logits, max, inverse, &mut values));
        Ok(Self { values, total })
    }
}

/// The largest of some values, if all are finite and there is one.
#[inline(always)]
fn largest(values: &[f32]) -> Option<f32> {
    let (groups, rest) = values.as_chunks::<LANES>();
    let mut max = [f32::NEG_INFINITY; LANES];
    // A finite value times 0 is 0, of either sign, any other NaN.
    let mut zeros = [0f32; LANES];
    for group in groups {
        for ((max, zero), value) in max.iter_mut().zip(&mut zeros).zip(group) {
            *max = if *value > *max { *value } else { *max };
            *zero += value * 0.0;
        }
    }
    let finite = zeros == [0.0; LANES] && rest.iter().all(|value| value.is_finite());
    let max = max.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    (finite && max.is_finite()).then_some(max)
}

/// Writes `exp((l - max) * inverse)` of each logit to `out`, and returns the sum.
#[inline(always)]
fn exponentials(logits: &[f32], max: f32, inverse: f32, out: &mut [f32]) -> f64 {
    let (groups, rest) = logits.as_chunks::<LANES>();
    let (outs, out_rest) = out.as_chunks_mut::<LANES>();
    let mut sums = [0f64; LANES];
    for (group, out) in groups.iter().zip(outs) {
        for ((logit, out), sum) in group.iter().zip(out).zip(&mut sums) {
            *out = exp_of_nonpositive((logit - max) * inverse);
            *sum += f64::from(*out);
        }
    }
    let mut total: f64 = sums.iter().sum();
    for (logit, out) in rest.iter().zip(out_rest) {
        *out = exp_of_nonpositive((logit - max) * inverse);
        total += f64::from(*out);
    }
    total
}

/// `e^x` of a value that is not positive, within two units in the last place; 0 from -87 down, shortly before results become subnormal,
/// and NaN of NaN.
///
/// Without branches or calls, so that a loop over many values becomes one over vector registers; for engines. `x` is split into a
/// multiple of ln 2 and a rest of at most half of it, whose exponential is a polynomial with the coefficients of Cephes' `expf`.
#[must_use]
#[inline(always)]
pub fn exp_of_nonpositive(x: f32) -> f32 {
    /// Adding it rounds to a whole number, which is then in the last bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with so few bits that multiples are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Shortly before results become subnormal.
    const LEAST: f32 = -87.0;

    let clamped = if x > LEAST { x } else { LEAST };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN_2[0]) - n * LN_2[1];
    let mut y = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        y = y * r + coefficient;
    }
    let fraction = (y * r) * r + r + 1.0;
    // The whole number's last bits, moved to the exponent; what is above them falls out.
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let value = if x > LEAST { fraction * power } else { 0.0 };
    if x.is_nan() { x } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_double_precision_within_two_units_in_the_last_place() {
        let values: Vec<f32> = (0..100_000).map(|i| i as f32 * -8.7e-4).collect();
        let all = Exponentials::of(&values, 1.0).unwrap();
        for (x, e) in values.iter().zip(&all.values) {
            let exact = f64::from(*x).exp();
            assert!((f64::from(*e) - exact).abs() <= 2.4e-7 * exact, "{x}: {e} for {exact}");
        }
        let total: f64 = all.values.iter().map(|e| f64::from(*e)).sum();
        assert!((all.total - total).abs() < 1e-9 * total);
    }

    #[test]
    fn what_would_be_subnormal_is_zero_and_the_largest_is_one() {
        for n in [1, 15, 16, 17, 40] {
            let mut logits = vec![-200.0; n];
            logits[n - 1] = 3.0;
            let all = Exponentials::of(&logits, 0.5).unwrap();
            assert_eq!(all.values[n - 1], 1.0);
            assert!(all.values[..n - 1].iter().all(|e| *e == 0.0));
            assert_eq!(all.total, 1.0);
        }
    }

    #[test]
    fn a_logit_that_is_not_finite_is_an_error_wherever_it_stands() {
        assert!(Exponentials::of(&[], 1.0).is_err());
        for n in [1, 16, 33] {
            for at in 0..n {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut logits = vec![0.0; n];
                    logits[at] = bad;
                    assert!(Exponentials::of(&logits, 1.0).is_err(), "{bad} at {at} of {n}");
                }
            }
        }
    }
}
