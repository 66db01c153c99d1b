//! Weighted sums of the rows of an embedding table on the CPU.

use std::marker::PhantomData;
use std::ops::Range;

use avp_backend::TokenMix;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::tile::{Buffers, NO_VALUES, ROWS, add_rows};
use super::{Element, Values, for_values};

/// Rows that one task sums. Fixed, so that the result does not depend on the number of threads.
const TASK_ROWS: usize = 1024;
/// Rows of the table that are summed for all of several mixes before the next ones are read, so that they stay in the
/// second-level cache.
const SHARED_ROWS: usize = 64;
/// Rows of the table that one task goes through for several mixes.
const MANY_TASK_ROWS: usize = 16 << 10;

/// `sum_i weights[i] * table[ids[i]]`, `[dim]`. Ids beyond the table are left out; callers check them.
pub(crate) fn mix_sparse(table: &Values<'_>, dim: usize, ids: &[u32], weights: &[f32]) -> Vec<f32> {
    for_values!(table, rows => {
        let tasks = ids.par_chunks(TASK_ROWS).zip(weights.par_chunks(TASK_ROWS));
        let task = |(ids, weights): (&[u32], _)| {
            let row = |i: usize| row(rows, dim, index(*ids.get(i)?));
            Arch::new().dispatch(RowSum { dim, row, weights, of: PhantomData })
        };
        sum(dim, tasks.map(task).collect())
    })
}

/// `sum_i weights[i] * table[i]`, `[dim]`, over the whole vocabulary.
pub(crate) fn mix_dense(table: &Values<'_>, dim: usize, weights: &[f32]) -> Vec<f32> {
    for_values!(table, table => {
        let tasks = table.par_chunks(TASK_ROWS.saturating_mul(dim)).zip(weights.par_chunks(TASK_ROWS));
        let task = |(rows, weights)| {
            Arch::new().dispatch(RowSum { dim, row: |i| row(rows, dim, i), weights, of: PhantomData })
        };
        sum(dim, tasks.map(task).collect())
    })
}

/// As [`mix_sparse`] and [`mix_dense`] for several mixes, `[mixes, dim]`, in one pass over the table: neighbours mostly weigh
/// the same tokens. The ids of each must be ascending.
pub(crate) fn mix_many(table: &Values<'_>, dim: usize, mixes: &[TokenMix<'_>]) -> Vec<f32> {
    for_values!(table, table => {
        let height = table.len() / dim.max(1);
        let starts: Vec<usize> = (0..height).step_by(MANY_TASK_ROWS).collect();
        let task = |first: usize| {
            let end = height.min(first.saturating_add(MANY_TASK_ROWS));
            Arch::new().dispatch(ManySums { table, dim, mixes, rows: first..end })
        };
        sum(mixes.len().saturating_mul(dim), starts.into_par_iter().map(task).collect())
    })
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

#[inline(always)]
fn row<T>(table: &[T], dim: usize, index: usize) -> Option<&[T]> {
    let start = index.checked_mul(dim)?;
    table.get(start..start.checked_add(dim)?)
}

/// Sum of the tasks' sums, in their order.
fn sum(len: usize, partials: Vec<Vec<f32>>) -> Vec<f32> {
    let mut sum = vec![0f32; len];
    for partial in partials {
        for (s, p) in sum.iter_mut().zip(partial) {
            *s += p;
        }
    }
    sum
}

/// The sum of the rows that `row` gives for the places of `weights`.
struct RowSum<'a, T, F> {
    dim: usize,
    row: F,
    weights: &'a [f32],
    of: PhantomData<&'a T>,
}

impl<'a, T: Element, F: Fn(usize) -> Option<&'a [T]>> WithSimd for RowSum<'a, T, F> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let mut sum = vec![0f32; self.dim];
        add_weighted(simd, &mut sum, self.row, self.weights, &mut NO_VALUES.clone());
        sum
    }
}

/// Sums of some rows of the table for several mixes.
struct ManySums<'a, T> {
    table: &'a [T],
    dim: usize,
    mixes: &'a [TokenMix<'a>],
    rows: Range<usize>,
}

impl<T: Element> WithSimd for ManySums<'_, T> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { table, dim, mixes, rows } = self;
        let mut sums = vec![0f32; mixes.len().saturating_mul(dim)];
        let mut buffers = NO_VALUES;
        for start in rows.clone().step_by(SHARED_ROWS) {
            let block = start..rows.end.min(start.saturating_add(SHARED_ROWS));
            for (mix, sum) in mixes.iter().zip(sums.chunks_exact_mut(dim)) {
                match mix {
                    TokenMix::Sparse { ids, weights } => {
                        let place = |row: usize| ids.partition_point(|id| index(*id) < row);
                        let places = place(block.start)..place(block.end);
                        let ids = ids.get(places.clone()).unwrap_or_default();
                        let weights = weights.get(places).unwrap_or_default();
                        let row = |i: usize| row(table, dim, index(*ids.get(i)?));
                        add_weighted(simd, sum, row, weights, &mut buffers);
                    }
                    TokenMix::Dense(weights) => {
                        let weights = weights.get(block.start..).unwrap_or_default();
                        let weights = weights.get(..block.len()).unwrap_or(weights);
                        let row = |i: usize| row(table, dim, block.start.saturating_add(i));
                        add_weighted(simd, sum, row, weights, &mut buffers);
                    }
                }
            }
        }
        sums
    }
}

/// Adds the rows that `row` gives for the places of `weights`, each times its weight.
#[inline(always)]
fn add_weighted<'a, S: Simd, T: Element + 'a>(
    simd: S,
    sum: &mut [f32],
    row: impl Fn(usize) -> Option<&'a [T]>,
    weights: &[f32],
    buffers: &mut Buffers,
) {
    let (groups, rest) = weights.as_chunks::<ROWS>();
    let mut at = 0_usize;
    for group in groups {
        let rows: [Option<&[T]>; ROWS] = std::array::from_fn(|i| row(at.saturating_add(i)));
        at = at.saturating_add(ROWS);
        match rows {
            [Some(a), Some(b), Some(c), Some(d)] if group.iter().all(|weight| *weight != 0.0) => {
                add_rows(simd, sum, [a, b, c, d], *group, buffers);
            }
            _ => add_each(simd, sum, rows.iter().copied().zip(group), buffers),
        }
    }
    add_each(simd, sum, (at..).map(row).zip(rest), buffers);
}

/// The same, row by row.
#[inline(always)]
fn add_each<'a, 'b, S: Simd, T: Element + 'a>(
    simd: S,
    sum: &mut [f32],
    rows: impl Iterator<Item = (Option<&'a [T]>, &'b f32)>,
    buffers: &mut Buffers,
) {
    for (row, weight) in rows {
        if let Some(row) = row.filter(|_| *weight != 0.0) {
            add_rows(simd, sum, [row], [*weight], buffers);
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Sums by hand, in double precision.
    fn reference(table: &[f32], dim: usize, mix: &TokenMix<'_>) -> Vec<f64> {
        let pairs: Vec<(usize, f32)> = match mix {
            TokenMix::Sparse { ids, weights } => {
                ids.iter().map(|id| *id as usize).zip(weights.iter().copied()).collect()
            }
            TokenMix::Dense(weights) => weights.iter().copied().enumerate().collect(),
        };
        let mut sum = vec![0f64; dim];
        for (id, weight) in pairs.into_iter().filter(|(_, weight)| *weight != 0.0) {
            let row = &table[id * dim..][..dim];
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(weight) * f64::from(*x));
        }
        sum
    }

    fn close(got: &[f32], expected: &[f64]) -> bool {
        got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-4)
    }

    #[test]
    fn mixes_alone_and_together_are_weighted_sums_of_rows_of_every_type() {
        for dim in [1, 17, 530] {
            let height = 300;
            let values: Vec<f32> = (0..height * dim).map(|i| (i as f32 * 0.37).sin()).collect();
            let halves: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
            let brains: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
            let dense: Vec<f32> = (0..250).map(|i| if i % 3 == 0 { 0.0 } else { i as f32 * 1e-3 }).collect();
            let (ids, weights) =
                ([0, 7, 7, 63, 64, 65, 200, 299], [0.5, 0.25, 0.25, 0.0, 1.0, 2.0, 0.5, 0.1]);
            let mixes = [
                TokenMix::Sparse { ids: &ids, weights: &weights },
                TokenMix::Dense(&dense),
                TokenMix::Sparse { ids: &[], weights: &[] },
            ];
            let tables = [
                (Values::F32(&values), values.clone()),
                (Values::F16(&halves), halves.iter().map(|x| x.to_f32()).collect()),
                (Values::Bf16(&brains), brains.iter().map(|x| x.to_f32()).collect()),
            ];
            for (table, in_f32) in &tables {
                let expected: Vec<f64> = mixes.iter().flat_map(|mix| reference(in_f32, dim, mix)).collect();
                assert!(close(&mix_many(table, dim, &mixes), &expected), "{dim}");
                assert!(close(&mix_sparse(table, dim, &ids, &weights), &expected[..dim]), "{dim}");
                assert!(close(&mix_dense(table, dim, &dense), &expected[dim..2 * dim]), "{dim}");
            }
        }
    }

    #[test]
    fn rows_of_weight_zero_are_not_read() {
        let mut table = vec![1f32; 8 * 3];
        table[3..6].fill(f32::NAN);
        let weights = [1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
        assert_eq!(mix_dense(&Values::F32(&table), 3, &weights), [4.0; 3]);
        assert_eq!(mix_sparse(&Values::F32(&table), 3, &[0, 1, 2, 3], &weights[..4]), [3.0; 3]);
    }
}
