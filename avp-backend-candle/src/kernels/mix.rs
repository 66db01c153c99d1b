//! Weighted sums of the rows of an embedding table on the CPU.

use rayon::prelude::*;

use super::{Element, Values, for_values};

/// Rows that one task sums. Fixed, so that the result does not depend on the number of threads.
const TASK_ROWS: usize = 1024;

/// `sum_i weights[i] * table[ids[i]]`, `[dim]`. Ids beyond the table are left out; callers check them.
pub(crate) fn mix_sparse(table: &Values<'_>, dim: usize, ids: &[u32], weights: &[f32]) -> Vec<f32> {
    for_values!(table, rows => {
        let row = |id: &u32| {
            let start = usize::try_from(*id).ok()?.checked_mul(dim)?;
            rows.get(start..start.checked_add(dim)?)
        };
        let tasks = ids.par_chunks(TASK_ROWS).zip(weights.par_chunks(TASK_ROWS));
        sum(dim, tasks.map(|(ids, weights)| weighted(dim, ids.iter().map(row), weights)).collect())
    })
}

/// Rows that are summed for all mixes before the next ones are read, so that they stay in the second-level cache.
const SHARED_ROWS: usize = 32;
/// Rows of the table that one task of [`mix_many`] goes through.
const MANY_TASK_ROWS: usize = 16 << 10;

/// As [`mix_sparse`] for several mixes, `[mixes, dim]`, in one pass over the table: neighbours mostly weigh the same tokens. Ids
/// must be ascending.
pub(crate) fn mix_many(table: &Values<'_>, dim: usize, mixes: &[(&[u32], &[f32])]) -> Vec<f32> {
    for_values!(table, rows => {
        let height = rows.len() / dim.max(1);
        let task = |start: usize| {
            let mut sums = vec![0f32; mixes.len() * dim];
            let end = height.min(start + MANY_TASK_ROWS);
            let mut at: Vec<usize> = mixes.iter().map(|(ids, _)| ids.partition_point(|id| index(*id) < start)).collect();
            for block in (start..end).step_by(SHARED_ROWS) {
                let block_end = end.min(block + SHARED_ROWS);
                let each = mixes.iter().zip(&mut at).zip(sums.chunks_exact_mut(dim));
                for (((ids, weights), at), sum) in each {
                    while let (Some(id), Some(weight)) = (ids.get(*at), weights.get(*at)) {
                        if index(*id) >= block_end {
                            break;
                        }
                        let first = index(*id) * dim;
                        if let Some(row) = rows.get(first..first + dim).filter(|_| *weight != 0.0) {
                            add_row(sum, row, *weight);
                        }
                        *at += 1;
                    }
                }
            }
            sums
        };
        let starts: Vec<usize> = (0..height).step_by(MANY_TASK_ROWS).collect();
        sum(mixes.len() * dim, starts.into_par_iter().map(task).collect())
    })
}

fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// `sum_i weights[i] * table[i]`, `[dim]`, over the whole vocabulary.
pub(crate) fn mix_dense(table: &Values<'_>, dim: usize, weights: &[f32]) -> Vec<f32> {
    for_values!(table, rows => {
        let tasks = rows.par_chunks(TASK_ROWS.saturating_mul(dim)).zip(weights.par_chunks(TASK_ROWS));
        sum(dim, tasks.map(|(rows, weights)| weighted(dim, rows.chunks_exact(dim).map(Some), weights)).collect())
    })
}

fn weighted<'a, T: Element + 'a>(
    dim: usize,
    rows: impl Iterator<Item = Option<&'a [T]>>,
    weights: &[f32],
) -> Vec<f32> {
    let mut sum = vec![0f32; dim];
    for (row, weight) in rows.zip(weights) {
        if let Some(row) = row.filter(|_| *weight != 0.0) {
            add_row(&mut sum, row, *weight);
        }
    }
    sum
}

/// Sum of the tasks' sums, in their order.
fn sum(dim: usize, partials: Vec<Vec<f32>>) -> Vec<f32> {
    let mut sum = vec![0f32; dim];
    for partial in partials {
        for (s, p) in sum.iter_mut().zip(partial) {
            *s += p;
        }
    }
    sum
}

/// Adds `weight` times `row` to `sum`.
pub(super) fn add_row<T: Element>(sum: &mut [f32], row: &[T], weight: f32) {
    T::blocks(row, |start, block| {
        for (s, e) in sum.get_mut(start..).unwrap_or_default().iter_mut().zip(block) {
            *s += weight * e;
        }
    });
}
