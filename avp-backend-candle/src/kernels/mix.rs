//! Weighted sums of the rows of an embedding table on the CPU.

use rayon::prelude::*;

use super::{Element, Values, for_values};

/// Rows that one task sums. Fixed, so that the result does not depend on the number of threads.
const TASK_ROWS: usize = 1024;

/// `sum_i weights[i] * table[ids[i]]`, `[dim]`. Ids beyond the table are left out; callers check them.
pub(crate) fn mix_sparse(table: &Values<'_>, dim: usize, ids: &[u32], weights: &[f32]) -> Vec<f32> {
    let mut sum = vec![0f32; dim];
    for_values!(table, rows => {
        for (id, weight) in ids.iter().zip(weights) {
            let start = (*id as usize).saturating_mul(dim);
            if let Some(row) = rows.get(start..start.saturating_add(dim)) {
                add_row(&mut sum, row, *weight);
            }
        }
    });
    sum
}

/// `sum_i weights[i] * table[i]`, `[dim]`, over the whole vocabulary.
pub(crate) fn mix_dense(table: &Values<'_>, dim: usize, weights: &[f32]) -> Vec<f32> {
    for_values!(table, rows => dense(rows, dim, weights))
}

fn dense<T: Element>(rows: &[T], dim: usize, weights: &[f32]) -> Vec<f32> {
    let partial = |(rows, weights): (&[T], &[f32])| {
        let mut sum = vec![0f32; dim];
        for (row, weight) in rows.chunks_exact(dim).zip(weights) {
            if *weight != 0.0 {
                add_row(&mut sum, row, *weight);
            }
        }
        sum
    };
    let tasks = rows.par_chunks(TASK_ROWS.saturating_mul(dim)).zip(weights.par_chunks(TASK_ROWS));
    let partials: Vec<Vec<f32>> = tasks.map(partial).collect();
    let mut sum = vec![0f32; dim];
    for partial in partials {
        for (s, p) in sum.iter_mut().zip(partial) {
            *s += p;
        }
    }
    sum
}

fn add_row<T: Element>(sum: &mut [f32], row: &[T], weight: f32) {
    T::blocks(row, |start, block| {
        for (s, e) in sum.get_mut(start..).unwrap_or_default().iter_mut().zip(block) {
            *s += weight * e;
        }
    });
}
