//! Softmax over the vocabulary and the embeddings it weighs, in one pass over a tied table.
//!
//! As logits, softmax and a sum of rows, a distribution that is not very peaked costs two passes over the table,
//! each bound by memory. Here four rows at a time are multiplied with the hidden state, and while they are still
//! in the first-level cache they are added to the sum; when a larger logit turns up, the sum is scaled down. The
//! next rows are fetched meanwhile, so that memory never waits for arithmetic.
#![allow(unsafe_code)]

use half::{bf16, f16};
use rayon::prelude::*;

use super::mix::add_row;
use super::{Element, Values, dot, for_values};

/// Rows that one task takes. Fixed, so that the result does not depend on the number of threads.
const TASK_ROWS: usize = 2048;
/// Rows that are multiplied and then added at once.
const ROWS: usize = 4;
/// Values of a row added at once, as many as a cache line has.
const LANES: usize = 16;

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
            let parts: Option<Vec<Part>> = tasks.map(|rows| self.part(rows, least)).collect();
            merged(dim, parts?)
        })
    }

    fn part<T: SoftElement>(&self, values: &[T], least: f32) -> Option<Part> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, which is all that the function asks for.
            return unsafe { self.part_avx2(values, least) };
        }
        self.part_anywhere(values, least)
    }

    /// The same in wider registers. Without fused products, so that results are the same bit for bit.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn part_avx2<T: SoftElement>(&self, values: &[T], least: f32) -> Option<Part> {
        self.part_anywhere(values, least)
    }

    #[inline(always)]
    fn part_anywhere<T: SoftElement>(&self, values: &[T], least: f32) -> Option<Part> {
        let dim = self.x.len().max(1);
        let mut part = Part { max: f32::NEG_INFINITY, total: 0.0, sum: vec![0f32; dim] };
        let mut rest = values;
        while let Some((rows, next)) = rest.split_at_checked(dim.saturating_mul(ROWS)) {
            let mut weights = [0f32; ROWS];
            self.logits(rows, &mut weights);
            if !part.take(&mut weights, least) {
                return None;
            }
            if weights != [0.0; ROWS] {
                T::add_rows(&mut part.sum, rows, &weights, next);
            }
            rest = next;
        }
        for row in rest.chunks_exact(dim) {
            let mut weight = [0f32; 1];
            self.logits(row, &mut weight);
            if !part.take(&mut weight, least) {
                return None;
            }
            add_row(&mut part.sum, row, weight[0]);
        }
        Some(part)
    }

    /// Logits of some rows.
    #[inline(always)]
    fn logits<T: SoftElement>(&self, rows: &[T], logits: &mut [f32]) {
        for (logit, row) in logits.iter_mut().zip(rows.chunks_exact(self.x.len().max(1))) {
            let product = T::product(self.x, row);
            *logit = self.cap.map_or(product, |cap| cap * (product / cap).tanh());
        }
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
    total.is_finite().then_some(sum)
}

/// An element type with the two loops over rows.
trait SoftElement: Element {
    /// Product of `x` and `row`.
    #[inline(always)]
    fn product(x: &[f32], row: &[Self]) -> f32 {
        let mut product = 0.0;
        Self::blocks(row, |start, block| product += dot(block, x.get(start..).unwrap_or_default()));
        product
    }

    /// Adds [`ROWS`] rows, each times its weight, to `sum`. `next` is what will be asked for next.
    #[inline(always)]
    fn add_rows(sum: &mut [f32], rows: &[Self], weights: &[f32; ROWS], next: &[Self]) {
        let _ = next;
        let rows = rows.chunks_exact(sum.len().max(1));
        rows.zip(weights).for_each(|(row, weight)| add_row(sum, row, *weight));
    }
}

impl SoftElement for f16 {}

impl SoftElement for bf16 {}

impl SoftElement for f32 {
    #[inline(always)]
    fn product(x: &[f32], row: &[f32]) -> f32 {
        dot(row, x)
    }

    #[inline(always)]
    fn add_rows(sum: &mut [f32], rows: &[f32], weights: &[f32; ROWS], next: &[f32]) {
        let dim = sum.len().max(1);
        let mut rows = rows.chunks_exact(dim);
        let (Some(a), Some(b), Some(c), Some(d)) = (rows.next(), rows.next(), rows.next(), rows.next())
        else {
            return;
        };
        let lines = sum.chunks_mut(LANES).zip(a.chunks(LANES)).zip(b.chunks(LANES)).zip(c.chunks(LANES));
        for (i, ((((s, a), b), c), d)) in lines.zip(d.chunks(LANES)).enumerate() {
            for row in 0..ROWS {
                prefetch(next, row * dim + i * LANES);
            }
            add_line(s, [a, b, c, d], weights);
        }
    }
}

/// Adds at most [`LANES`] values of each row.
#[inline(always)]
fn add_line(sum: &mut [f32], [a, b, c, d]: [&[f32]; ROWS], &[u, v, w, x]: &[f32; ROWS]) {
    for ((((s, a), b), c), d) in sum.iter_mut().zip(a).zip(b).zip(c).zip(d) {
        *s += (u * a + v * b) + (w * c + x * d);
    }
}

/// Asks for the cache line of `values[at]`, if there is one.
#[inline(always)]
fn prefetch(values: &[f32], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(value) = values.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, and the address is that of a value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, at);
}

#[cfg(test)]
mod tests {
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
