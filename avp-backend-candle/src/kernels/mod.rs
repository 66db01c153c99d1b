//! CPU kernels for what candle's matrix product does not cover: half types, and products with few rows, which
//! are bound by how fast the weights stream from memory.
//!
//! No matrix is converted as a whole: half-precision weights become f32 a block at a time, in cache.

mod linear;
mod mix;
mod soft;
mod stream;

pub(crate) use linear::linear;
pub(crate) use mix::{mix_dense, mix_many, mix_sparse};
pub(crate) use soft::Soft;
pub(crate) use stream::{LARGE, copy};

use candle_core::{CpuStorage, Layout};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Floats that one conversion block holds: 8 KiB, well inside the first-level cache.
const BLOCK: usize = 2048;

/// An element type of weights.
pub(crate) trait Element: Copy + Send + Sync {
    /// Calls `f` with `row` as f32, in blocks of at most [`BLOCK`]; the first argument is the block's start.
    fn blocks(row: &[Self], f: impl FnMut(usize, &[f32]));
}

impl Element for f32 {
    fn blocks(row: &[Self], mut f: impl FnMut(usize, &[f32])) {
        f(0, row);
    }
}

impl Element for f16 {
    fn blocks(row: &[Self], mut f: impl FnMut(usize, &[f32])) {
        let mut buffer = [0f32; BLOCK];
        for (i, block) in row.chunks(BLOCK).enumerate() {
            if let Some(out) = buffer.get_mut(..block.len()) {
                block.convert_to_f32_slice(out);
                f(i.wrapping_mul(BLOCK), out);
            }
        }
    }
}

impl Element for bf16 {
    fn blocks(row: &[Self], mut f: impl FnMut(usize, &[f32])) {
        let mut buffer = [0f32; BLOCK];
        for (i, block) in row.chunks(BLOCK).enumerate() {
            if let Some(out) = buffer.get_mut(..block.len()) {
                for (o, b) in out.iter_mut().zip(block) {
                    *o = f32::from_bits(u32::from(b.to_bits()) << 16);
                }
                f(i.wrapping_mul(BLOCK), out);
            }
        }
    }
}

/// Values of a contiguous CPU tensor of any supported type.
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> Values<'a> {
    pub(crate) fn new(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("a weight matrix is not contiguous");
        };
        let values = match storage {
            CpuStorage::F32(v) => v.get(start..end).map(Self::F32),
            CpuStorage::F16(v) => v.get(start..end).map(Self::F16),
            CpuStorage::BF16(v) => v.get(start..end).map(Self::Bf16),
            _ => None,
        };
        match values {
            Some(values) => Ok(values),
            None => candle_core::bail!("a weight matrix is of an unexpected type"),
        }
    }
}

/// Evaluates `$body` with `$v` bound to the typed slice of `$values`.
macro_rules! for_values {
    ($values:expr, $v:ident => $body:expr) => {
        match $values {
            $crate::kernels::Values::F32($v) => $body,
            $crate::kernels::Values::F16($v) => $body,
            $crate::kernels::Values::Bf16($v) => $body,
        }
    };
}
pub(crate) use for_values;

/// Dot product with 16 partial sums, which the compiler keeps in vector registers.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<16>();
    let (b_chunks, b_rest) = b.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}
