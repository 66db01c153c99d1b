//! `x W^T` on the CPU.

use candle_core::{DType, Device, Storage, Tensor};
use rayon::prelude::*;

use super::{Element, Values, dot, for_values};

/// Rows of `x` up to which the product streams the weights once, dot product by dot product.
const FEW_ROWS: usize = 4;
/// The same for half types, for which the alternative is to convert blocks of weights.
const FEW_ROWS_HALF: usize = 12;
/// Weight rows per rayon task.
const TASK_ROWS: usize = 64;
/// Weight rows that are converted to f32 at a time for candle's product.
const CONVERT_ROWS: usize = 1024;

/// `x [n, k]` in f32 times the transpose of `weight [m, k]` in any weight type: `[n, m]` in f32.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    let (n, k) = x.dims2()?;
    let (m, weight_k) = weight.dims2()?;
    if k != weight_k || k == 0 {
        candle_core::bail!("a product of [{n}, {k}] with [{m}, {weight_k}] transposed");
    }
    let few = if weight.dtype() == DType::F32 { FEW_ROWS } else { FEW_ROWS_HALF };
    if n > few {
        return many_rows(x, weight);
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
    let by_row = for_values!(Values::new(w_cpu, w_layout)?, w => few_rows(x_values, w, n, k, m));
    match n {
        1 => Tensor::from_vec(by_row, (1, m), &Device::Cpu),
        _ => Tensor::from_vec(by_row, (m, n), &Device::Cpu)?.t()?.contiguous(),
    }
}

/// `[m, n]`: for each weight row its products with all rows of `x`.
fn few_rows<T: Element>(x: &[f32], weight: &[T], n: usize, k: usize, m: usize) -> Vec<f32> {
    let mut out = vec![0f32; m.saturating_mul(n)];
    let tasks = out.par_chunks_mut(TASK_ROWS * n).zip(weight.par_chunks(TASK_ROWS.saturating_mul(k)));
    tasks.for_each(|(out, rows)| {
        for (out, row) in out.chunks_exact_mut(n).zip(rows.chunks_exact(k)) {
            T::blocks(row, |start, block| {
                for (o, x) in out.iter_mut().zip(x.chunks_exact(k)) {
                    *o += dot(block, x.get(start..).unwrap_or_default());
                }
            });
        }
    });
    out
}

/// Many rows are bound by arithmetic: candle's product, on blocks of converted weight rows.
fn many_rows(x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    if weight.dtype() == DType::F32 {
        return x.matmul(&weight.t()?);
    }
    let k = weight.dim(1)?;
    let (storage, layout) = weight.storage_and_layout();
    let Storage::Cpu(cpu) = &*storage else {
        candle_core::bail!("a CPU product of tensors on another device")
    };
    let blocks = for_values!(Values::new(cpu, layout)?, w => {
        let blocks = w.chunks(CONVERT_ROWS.saturating_mul(k));
        blocks.map(|rows| x.matmul(&in_f32(rows, k)?.t()?)).collect::<candle_core::Result<Vec<_>>>()?
    });
    Tensor::cat(&blocks, 1)
}

/// Weight rows `[.., k]` as an f32 tensor.
fn in_f32<T: Element>(rows: &[T], k: usize) -> candle_core::Result<Tensor> {
    let mut out = vec![0f32; rows.len()];
    out.par_chunks_mut(k).zip(rows.par_chunks(k)).for_each(|(out, row)| {
        T::blocks(row, |start, block| {
            if let Some(out) = out.get_mut(start..start.saturating_add(block.len())) {
                out.copy_from_slice(block);
            }
        });
    });
    Tensor::from_vec(out, (rows.len() / k, k), &Device::Cpu)
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
        for (k, m) in [(1, 1), (33, 5), (896, 70), (2050, 3), (64, 1030)] {
            let weight = Tensor::randn(0f32, 1.0, (m, k), &Device::Cpu).unwrap() * 0.1;
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let weight = weight.as_ref().unwrap().to_dtype(dtype).unwrap();
                let in_f32 = weight.to_dtype(DType::F32).unwrap();
                for n in [1, 2, 4, 5, 17] {
                    let x = Tensor::randn(0f32, 1.0, (n, k), &Device::Cpu).unwrap();
                    let expected = x.matmul(&in_f32.t().unwrap()).unwrap();
                    assert!(close(&linear(&x, &weight).unwrap(), &expected), "{n} {k} {m} {dtype:?}");
                }
            }
        }
    }
}
