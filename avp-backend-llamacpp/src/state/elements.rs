//! Elements of the types that caches have.

use avp_wire::KvDtype;
use half::{bf16, f16};

use super::CacheType;

/// Elements of a quantised block.
pub(super) const QUANTS: usize = 32;

/// Elements of a type, one after another.
pub(super) struct Elements<'a> {
    pub(super) dtype: KvDtype,
    pub(super) bytes: &'a [u8],
}

impl<'a> Elements<'a> {
    /// `count` elements from number `at` on.
    pub(super) fn vector(&self, at: usize, count: usize) -> Option<Elements<'a>> {
        let size = self.dtype.size();
        let bytes = self.bytes.get(at * size..(at + count) * size)?;
        Some(Elements { dtype: self.dtype, bytes })
    }

    pub(super) fn unpack(&self, out: &mut [f32]) {
        match self.dtype {
            KvDtype::F32 => unpack(self.bytes, out, f32::from_le_bytes),
            KvDtype::F16 => unpack(self.bytes, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
            KvDtype::Bf16 => unpack(self.bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        }
    }
}

fn unpack<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *out = value(*bytes);
    }
}

/// Writes values in a type.
pub(super) fn put(dtype: KvDtype, values: impl Iterator<Item = f32>, out: &mut [u8]) {
    match dtype {
        KvDtype::F32 => pack(values, out, f32::to_le_bytes),
        KvDtype::F16 => pack(values, out, |value| f16::from_f32(value).to_le_bytes()),
        KvDtype::Bf16 => pack(values, out, |value| bf16::from_f32(value).to_le_bytes()),
    }
}

fn pack<const N: usize>(values: impl Iterator<Item = f32>, out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (value, out) in values.zip(out.as_chunks_mut::<N>().0) {
        *out = bytes(value);
    }
}

/// Unpacks a row, and undoes its rotation in runs of `rotation` channels.
pub(super) fn decode_row(kind: CacheType, row: &[u8], out: &mut [f32], rotation: usize) {
    if kind != CacheType::Q8 {
        return Elements { dtype: kind.canonical(), bytes: row }.unpack(out);
    }
    for (block, out) in row.chunks_exact(QUANTS + 2).zip(out.chunks_exact_mut(QUANTS)) {
        let Some((scale, quants)) = block.split_first_chunk::<2>() else { return };
        let scale = f16::from_le_bytes(*scale).to_f32();
        for (quant, out) in quants.iter().zip(out) {
            *out = f32::from(quant.cast_signed()) * scale;
        }
    }
    rotate(out, rotation);
}

/// The reverse of [`decode_row`]. `values` are used up.
pub(super) fn encode_row(kind: CacheType, values: &mut [f32], row: &mut [u8], rotation: usize) {
    if kind != CacheType::Q8 {
        return put(kind.canonical(), values.iter().copied(), row);
    }
    rotate(values, rotation);
    for (values, block) in values.chunks_exact(QUANTS).zip(row.chunks_exact_mut(QUANTS + 2)) {
        let Some((scale, quants)) = block.split_first_chunk_mut::<2>() else { return };
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let step = largest / 127.0;
        *scale = f16::from_f32(step).to_le_bytes();
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        for (value, quant) in values.iter().zip(quants) {
            *quant = to_i8(value * inverse).cast_unsigned();
        }
    }
}

/// The nearest integer of 8 bits.
#[allow(clippy::as_conversions, reason = "saturates, and NaN becomes 0: what is meant")]
fn to_i8(value: f32) -> i8 {
    value.round() as i8
}

/// Multiplies each run of `width` values, a power of two, by the normalised Hadamard matrix, its own inverse. 0 is none.
fn rotate(values: &mut [f32], width: usize) {
    if width == 0 {
        return;
    }
    // A fixed width lets the compiler keep the inner steps in registers.
    let (fixed, rest) = values.as_chunks_mut::<64>();
    let mut span = match rest {
        [] if width >= 64 => {
            fixed.iter_mut().for_each(butterflies);
            64
        }
        _ => 1,
    };
    while span < width {
        for pair in values.chunks_exact_mut(2 * span) {
            butterfly(pair, span);
        }
        span *= 2;
    }
    let scale = u16::try_from(width).map_or(1.0, |width| f32::from(width).sqrt().recip());
    values.iter_mut().for_each(|value| *value *= scale);
}

/// The steps within 64 values.
fn butterflies(values: &mut [f32; 64]) {
    for span in [1, 2, 4, 8, 16, 32] {
        for pair in values.chunks_exact_mut(2 * span) {
            butterfly(pair, span);
        }
    }
}

#[inline(always)]
fn butterfly(pair: &mut [f32], span: usize) {
    let (a, b) = pair.split_at_mut(span);
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (*a + *b, *a - *b);
    }
}
