//! CPU kernels for what candle's matrix product does not cover: half types, and products with few rows, which
//! are bound by how fast the weights stream from memory.
//!
//! No matrix is converted as a whole: half-precision weights become f32 a block at a time, in cache.

mod element;
mod gate;
mod linear;
mod mix;
mod soft;
mod stream;
mod tile;

use element::Element;
pub(crate) use gate::gated;
pub(crate) use linear::linear;
pub(crate) use mix::{mix_dense, mix_many, mix_sparse};
pub(crate) use soft::Soft;
pub(crate) use stream::{LARGE, copy};

use candle_core::{CpuStorage, Layout};
use half::{bf16, f16};

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
