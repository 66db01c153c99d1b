//! Softmax over the vocabulary and the embeddings it weighs, in one pass over a tied table.
//!
//! As logits, softmax and a sum of rows, a distribution that is not very peaked costs two passes over the table,
//! each bound by memory. Here a few rows at a time are multiplied with the hidden state, and while they are still
//! in the first-level cache they are added to the sum; when a larger logit turns up, the sum is scaled down. The
//! next rows are fetched meanwhile, so that memory never waits for arithmetic.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::tile::{ROWS, add_wide, split, wide_products};
use super::{Element, Values, for_values};

/// Rows that one task takes. Fixed, so that the result does not depend on the number of threads.
const TASK_ROWS: usize = 2048;

/// What `softmax(table x) table` is to be taken of.
pub(crate) struct Soft<'a> {
    /// The hidden state `[dim]`.
    pub(crate) x: &'a [f32],
    /// Cap on logits where the model has one: `cap * tanh(logit / cap)`.
    pub(crate) cap: Option<f32>,
    /// Probability mass that may be left out in total.
    pub(crate) left_out: f32,
}

impl Soft<'_> {
    /// `softmax(table x) table`, `[dim]`, or nothing if a logit is not finite. The table is `[rows, dim]`.
    pub(crate) fn embedding(&self, table: &Values<'_>) -> Option<Vec<f32>> {
        let dim = self.x.len().max(1);
        for_values!(table, values => {
            // What is smaller, relative to the largest, cannot add up to what may be left out.
            let least = self.left_out / (values.len() / dim).max(1) as f32;
            let tasks = values.par_chunks(TASK_ROWS.saturating_mul(dim));
            let task = |rows| Arch::new().dispatch(Rows { of: self, rows, least });
            let parts: Option<Vec<Part>> = tasks.map(task).collect();
            merged(dim, parts?)
        })
    }

    /// Of logits, where the model has it.
    fn cap(&self, logits: &mut [f32]) {
        if let Some(cap) = self.cap {
            logits.iter_mut().for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
    }
}

/// The softmax over some rows of the table.
struct Rows<'a, T> {
    of: &'a Soft<'a>,
    rows: &'a [T],
    /// What is smaller, relative to the largest, counts as zero.
    least: f32,
}

impl<T: Element> WithSimd for Rows<'_, T> {
    /// Nothing if a logit is not finite.
    type Output = Option<Part>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<Part> {
        let dim = self.of.x.len().max(1);
        let mut part = Part { max: f32::NEG_INFINITY, total: 0.0, sum: vec![0f32; dim] };
        let mut scratch: [Vec<f32>; ROWS] = std::array::from_fn(|_| vec![0f32; dim]);
        let mut rest = self.rows;
        while let Some((rows, next)) = rest.split_at_checked(dim.saturating_mul(ROWS)) {
            self.take(simd, &mut part, split(rows, dim), split(next, dim), &mut scratch)?;
            rest = next;
        }
        for row in rest.chunks_exact(dim) {
            self.take(simd, &mut part, [row], [&[]], &mut scratch)?;
        }
        Some(part)
    }
}

impl<T: Element> Rows<'_, T> {
    #[inline(always)]
    fn take<S: Simd, const R: usize>(
        &self,
        simd: S,
        part: &mut Part,
        rows: [&[T]; R],
        ahead: [&[T]; R],
        scratch: &mut [Vec<f32>; ROWS],
    ) -> Option<()> {
        let mut wide = [&[][..]; R];
        for (((wide, row), ahead), scratch) in wide.iter_mut().zip(rows).zip(ahead).zip(scratch) {
            *wide = T::widen(row, ahead, scratch);
        }
        let mut logits = [[0f32; R]];
        wide_products(simd, wide, std::iter::once(self.of.x), &mut logits);
        let [mut weights] = logits;
        self.of.cap(&mut weights);
        if !part.take(&mut weights, self.least) {
            return None;
        }
        if weights != [0.0; R] {
            add_wide(simd, &mut part.sum, wide, weights);
        }
        Some(())
    }
}

/// A softmax over some of the rows, not yet divided by its total.
struct Part {
    /// Largest logit, which all exponents are relative to.
    max: f32,
    /// Sum of the exponentials.
    total: f64,
    /// Sum of the rows, weighted by the exponentials.
    sum: Vec<f32>,
}

impl Part {
    /// Makes the logits of a block weights, those below `least` zero, and counts them. False if one is not finite.
    #[inline(always)]
    fn take(&mut self, logits: &mut [f32], least: f32) -> bool {
        let finite = logits.iter().all(|logit| logit.is_finite());
        self.raise(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        for logit in logits {
            let e = (*logit - self.max).exp();
            self.total += f64::from(e);
            *logit = if e < least { 0.0 } else { e };
        }
        finite
    }

    /// Makes all relative to `max` if it is larger.
    fn raise(&mut self, max: f32) {
        if max > self.max {
            let factor = (self.max - max).exp();
            self.max = max;
            self.total *= f64::from(factor);
            self.sum.iter_mut().for_each(|s| *s *= factor);
        }
    }
}

fn merged(dim: usize, parts: Vec<Part>) -> Option<Vec<f32>> {
    let max = parts.iter().map(|part| part.max).fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0f64;
    let mut sum = vec![0f32; dim];
    for mut part in parts {
        part.raise(max);
        total += part.total;
        for (s, p) in sum.iter_mut().zip(&part.sum) {
            *s += p;
        }
    }
    let scale = (1.0 / total) as f32;
    sum.iter_mut().for_each(|s| *s *= scale);
    (total > 0.0 && total.is_finite()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// A table `[rows, dim]` whose values are small and without a pattern.
    fn table(rows: usize, dim: usize) -> Vec<f32> {
        (0..rows * dim).map(|i| ((i as f32 * 12.9898).sin() * 43.7585).fract() * 0.1).collect()
    }

    fn reference(table: &[f32], x: &[f32], cap: Option<f32>) -> Vec<f64> {
        let rows = table.chunks_exact(x.len());
        let logits: Vec<f64> = rows
            .clone()
            .map(|row| {
                let logit: f64 = row.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                cap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).tanh())
            })
            .collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = logits.iter().map(|l| (l - max).exp()).sum();
        let mut sum = vec![0f64; x.len()];
        for (row, logit) in rows.zip(&logits) {
            let p = (logit - max).exp() / total;
            sum.iter_mut().zip(row).for_each(|(s, e)| *s += p * f64::from(*e));
        }
        sum
    }

    #[test]
    fn one_pass_gives_what_logits_softmax_and_a_weighted_sum_give() {
        for (rows, dim) in [(1, 1), (3, 5), (33, 20), (64, 32), (2047, 17), (2049, 16), (5000, 64)] {
            let table = table(rows, dim);
            for (scale, cap) in [(0.0, None), (1.0, None), (30.0, None), (300.0, Some(5.0))] {
                let x: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.7).cos() * scale).collect();
                let expected = reference(&table, &x, cap);
                let soft = Soft { x: &x, cap, left_out: 1e-6 };
                let got = soft.embedding(&Values::F32(&table)).unwrap();
                for (a, b) in got.iter().zip(&expected) {
                    assert!((f64::from(*a) - b).abs() < 2e-5, "{rows} x {dim}, scale {scale}: {a} for {b}");
                }
            }
        }
    }

    #[test]
    fn half_tables_give_what_their_values_in_f32_give() {
        let (rows, dim) = (2100, 2050);
        let table = table(rows, dim);
        let halves: Vec<f16> = table.iter().map(|v| f16::from_f32(*v)).collect();
        let brains: Vec<bf16> = table.iter().map(|v| bf16::from_f32(*v)).collect();
        let x: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.7).cos()).collect();
        let soft = Soft { x: &x, cap: None, left_out: 1e-4 };
        let from_halves: Vec<f32> = halves.iter().map(|v| v.to_f32()).collect();
        let from_brains: Vec<f32> = brains.iter().map(|v| v.to_f32()).collect();
        for (values, in_f32) in [(Values::F16(&halves), from_halves), (Values::Bf16(&brains), from_brains)] {
            let expected = reference(&in_f32, &x, None);
            let got = soft.embedding(&values).unwrap();
            assert!(got.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 2e-5));
        }
    }

    #[test]
    fn a_logit_that_is_not_finite_gives_nothing() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 40, 4999] {
                let mut table = table(5000, 4);
                table[at * 4] = bad;
                let soft = Soft { x: &[1.0, 0.5, 0.25, 2.0], cap: None, left_out: 1e-6 };
                assert_eq!(soft.embedding(&Values::F32(&table)), None, "{bad} in row {at}");
            }
        }
    }
}
