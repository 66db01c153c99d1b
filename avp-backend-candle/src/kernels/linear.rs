//! `x W^T` on the CPU.
#![allow(unsafe_code)]

use candle_core::{DType, Device, Storage, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::element::PIECE;
use super::tile::{NO_VALUES, ROWS, products, split};
use super::{Element, Values, for_values};

/// Rows of `x` up to which the product streams the weights from memory once. Beyond, candle's product is faster, which
/// arranges its operands first; for half types that goes with widening the weights.
const FEW_ROWS: usize = 40;
/// Weight rows per rayon task.
const TASK_ROWS: usize = 64;
/// Weight rows that are converted to f32 at a time for candle's product.
const CONVERT_ROWS: usize = 1024;

/// `x [n, k]` in f32 times the transpose of `weight [m, k]` in any weight type: `[n, m]` in f32.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    let (n, k) = x.dims2()?;
    let (m, weight_k) = weight.dims2()?;
    if k != weight_k || k == 0 || m == 0 {
        candle_core::bail!("a product of [{n}, {k}] with [{m}, {weight_k}] transposed");
    }
    if n > FEW_ROWS && weight.dtype() == DType::F32 {
        return x.matmul(&weight.t()?);
    }
    let x = x.contiguous()?;
    let (x_storage, x_layout) = x.storage_and_layout();
    let (w_storage, w_layout) = weight.storage_and_layout();
    let (Storage::Cpu(x_cpu), Storage::Cpu(w_cpu)) = (&*x_storage, &*w_storage) else {
        candle_core::bail!("a CPU product of tensors on another device");
    };
    let Values::F32(x_values) = Values::new(x_cpu, x_layout)? else {
        candle_core::bail!("a CPU product of activations that are not f32");
    };
    let product = for_values!(Values::new(w_cpu, w_layout)?, w => match n {
        ..=FEW_ROWS => few_rows(x_values, w, (n, k, m)),
        _ => many_rows(x_values, w, (n, k, m)),
    });
    Tensor::from_vec(product, (n, m), &Device::Cpu)
}

/// `[n, m]`, each task having some of the weight rows.
fn few_rows<T: Element>(x: &[f32], weight: &[T], (n, k, m): (usize, usize, usize)) -> Vec<f32> {
    let mut out = vec![0f32; n.saturating_mul(m)];
    let mut columns: Vec<Vec<&mut [f32]>> = Vec::new();
    columns.resize_with(m.div_ceil(TASK_ROWS), || Vec::with_capacity(n));
    for row in out.chunks_exact_mut(m) {
        columns.iter_mut().zip(row.chunks_mut(TASK_ROWS)).for_each(|(column, part)| column.push(part));
    }
    let tasks = columns.par_iter_mut().zip(weight.par_chunks(TASK_ROWS.saturating_mul(k)));
    tasks.for_each(|(out, weight)| Arch::new().dispatch(Columns { x, weight, k, out }));
    out
}

/// Some columns of a product: those of the rows of `weight`.
struct Columns<'a, 'b, T> {
    /// `[n, k]`.
    x: &'a [f32],
    /// `[rows, k]`.
    weight: &'a [T],
    k: usize,
    /// For each row of `x`, its products with the rows of `weight`.
    out: &'a mut [&'b mut [f32]],
}

impl<T: Element> WithSimd for Columns<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, weight, k, out } = self;
        let mut buffers = NO_VALUES;
        let mut sums = vec![[0f32; ROWS]; out.len()];
        let mut rest = weight;
        let mut at = 0_usize;
        while let Some((rows, next)) = rest.split_at_checked(k.saturating_mul(ROWS)) {
            sums.fill([0.0; ROWS]);
            products(simd, split(rows, k), split(next, k), x, &mut buffers, &mut sums);
            for (out, sums) in out.iter_mut().zip(&sums) {
                out.iter_mut().skip(at).zip(sums).for_each(|(out, sum)| *out = *sum);
            }
            (rest, at) = (next, at.saturating_add(ROWS));
        }
        let mut sum = vec![[0f32; 1]; out.len()];
        for (row, at) in rest.chunks_exact(k).zip(at..) {
            sum.fill([0.0]);
            products(simd, [row], [&[]], x, &mut buffers, &mut sum);
            for (out, [sum]) in out.iter_mut().zip(&sum) {
                out.iter_mut().skip(at).take(1).for_each(|out| *out = *sum);
            }
        }
    }
}

/// Many rows are bound by arithmetic: the product of candle's library, on blocks of widened weights.
fn many_rows<T: Element>(x: &[f32], weight: &[T], (n, k, m): (usize, usize, usize)) -> Vec<f32> {
    let mut out = vec![0f32; n.saturating_mul(m)];
    let mut wide = vec![0f32; CONVERT_ROWS.min(m).saturating_mul(k)];
    for (block, rows) in weight.chunks(CONVERT_ROWS.saturating_mul(k)).enumerate() {
        if let Some(wide) = wide.get_mut(..rows.len()) {
            widen(rows, wide);
            product_at(x, wide, k, &mut out, (m, block.saturating_mul(CONVERT_ROWS)));
        }
    }
    out
}

/// Writes the products of the rows of `x [n, k]` with those of `weight [rows, k]` to the columns of `out [n, m]` from `column` on.
fn product_at(x: &[f32], weight: &[f32], k: usize, out: &mut [f32], (m, column): (usize, usize)) {
    let (n, rows) = (x.len() / k, weight.len() / k);
    assert!(column + rows <= m && out.len() == n * m, "a block of {rows} columns from {column} of {m}");
    let stride = |values: usize| isize::try_from(values).unwrap_or(isize::MAX);
    let threads = gemm::Parallelism::Rayon(rayon::current_num_threads());
    // SAFETY: `x` is `[n, k]` and `weight` `[rows, k]`, row-major, read at strides of k and 1. What is written are n runs of
    // `rows` values at distances of m from `column` on, which lie in `out` as was just checked, and nothing else borrows it.
    unsafe {
        let out = out.as_mut_ptr().add(column);
        let (x, weight) = (x.as_ptr(), weight.as_ptr());
        gemm::gemm(
            n,
            rows,
            k,
            out,
            1,
            stride(m),
            false,
            x,
            1,
            stride(k),
            weight,
            stride(k),
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            threads,
        );
    }
}

/// `values` in f32, by all threads; `out` is as long.
fn widen<T: Element>(values: &[T], out: &mut [f32]) {
    const TASK: usize = 32 * PIECE;
    out.par_chunks_mut(TASK).zip(values.par_chunks(TASK)).for_each(|(out, values)| {
        Arch::new().dispatch(Widened { values, out });
    });
}

/// Values of any type in f32.
struct Widened<'a, T> {
    values: &'a [T],
    out: &'a mut [f32],
}

impl<T: Element> WithSimd for Widened<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (out, piece) in self.out.chunks_mut(PIECE).zip(self.values.chunks(PIECE)) {
            let _ = T::widen(piece, &[], out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &Tensor, b: &Tensor) -> bool {
        let diff = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        a.dims() == b.dims() && diff < 1e-4
    }

    #[test]
    fn products_of_every_type_and_height_agree_with_candle_in_f32() {
        for (k, m) in [(1, 1), (33, 5), (896, 70), (2050, 3), (64, 1030), (520, 65)] {
            let weight = Tensor::randn(0f32, 1.0, (m, k), &Device::Cpu).unwrap() * 0.1;
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let weight = weight.as_ref().unwrap().to_dtype(dtype).unwrap();
                let in_f32 = weight.to_dtype(DType::F32).unwrap();
                for n in [1, 2, 3, 4, 40, 41] {
                    let x = Tensor::randn(0f32, 1.0, (n, k), &Device::Cpu).unwrap();
                    let expected = x.matmul(&in_f32.t().unwrap()).unwrap();
                    assert!(close(&linear(&x, &weight).unwrap(), &expected), "{n} {k} {m} {dtype:?}");
                }
            }
        }
    }
}
