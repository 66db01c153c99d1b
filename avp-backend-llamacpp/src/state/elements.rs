//! Elements of the types that caches have.

use avp_wire::KvDtype;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::CacheType;
use crate::ffi::unpack_q8;

/// Elements of a quantised block.
pub(super) const QUANTS: usize = 32;
/// Values that are converted or mixed within a register.
const LANES: usize = 8;
/// Values that are mixed without leaving the registers.
const RUN: usize = 64;

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

    #[inline(always)]
    pub(super) fn unpack(&self, out: &mut [f32]) {
        match self.dtype {
            KvDtype::F32 => unpack(self.bytes, out, f32::from_le_bytes),
            KvDtype::F16 => {
                for (bytes, out) in self.bytes.chunks(2 * LANES).zip(out.chunks_mut(LANES)) {
                    let mut halves = [f16::ZERO; LANES];
                    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
                        *half = f16::from_le_bytes(*bytes);
                    }
                    // Eight at once: one at a time each asks what the processor can do.
                    halves.get(..out.len()).unwrap_or_default().convert_to_f32_slice(out);
                }
            }
            KvDtype::Bf16 => unpack(self.bytes, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        }
    }
}

#[inline(always)]
fn unpack<const N: usize>(bytes: &[u8], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *out = value(*bytes);
    }
}

/// Writes values in a type.
#[inline(always)]
pub(super) fn put(dtype: KvDtype, values: &[f32], out: &mut [u8]) {
    match dtype {
        KvDtype::F32 => pack(values, out, f32::to_le_bytes),
        KvDtype::F16 => {
            for (values, out) in values.chunks(LANES).zip(out.chunks_mut(2 * LANES)) {
                let mut halves = [f16::ZERO; LANES];
                let halves = halves.get_mut(..values.len()).unwrap_or_default();
                halves.convert_from_f32_slice(values);
                for (half, out) in halves.iter().zip(out.as_chunks_mut::<2>().0) {
                    *out = half.to_le_bytes();
                }
            }
        }
        KvDtype::Bf16 => pack(values, out, |value| bf16::from_f32(value).to_le_bytes()),
    }
}

#[inline(always)]
fn pack<const N: usize>(values: &[f32], out: &mut [u8], bytes: impl Fn(f32) -> [u8; N]) {
    for (value, out) in values.iter().zip(out.as_chunks_mut::<N>().0) {
        *out = bytes(*value);
    }
}

/// Pairs of elements of `size` bytes, 2 or 4, to their first ones and then their second ones.
#[inline(always)]
pub(super) fn split_pairs(size: usize, pairs: &[u8], halves: &mut [u8]) {
    match size {
        2 => split_pairs_of::<2, 4>(pairs, halves),
        _ => split_pairs_of::<4, 8>(pairs, halves),
    }
}

#[inline(always)]
fn split_pairs_of<const N: usize, const PAIR: usize>(pairs: &[u8], halves: &mut [u8]) {
    let (first, second) = halves.split_at_mut(halves.len() / 2);
    let halves = first.as_chunks_mut::<N>().0.iter_mut().zip(second.as_chunks_mut::<N>().0);
    for (pair, (first, second)) in pairs.as_chunks::<PAIR>().0.iter().zip(halves) {
        let (a, b) = pair.split_at(N);
        first.copy_from_slice(a);
        second.copy_from_slice(b);
    }
}

/// The reverse of [`split_pairs`].
#[inline(always)]
pub(super) fn join_pairs(size: usize, halves: &[u8], pairs: &mut [u8]) {
    match size {
        2 => join_pairs_of::<2, 4>(halves, pairs),
        _ => join_pairs_of::<4, 8>(halves, pairs),
    }
}

#[inline(always)]
fn join_pairs_of<const N: usize, const PAIR: usize>(halves: &[u8], pairs: &mut [u8]) {
    let (first, second) = halves.split_at(halves.len() / 2);
    let halves = first.as_chunks::<N>().0.iter().zip(second.as_chunks::<N>().0);
    for (pair, (first, second)) in pairs.as_chunks_mut::<PAIR>().0.iter_mut().zip(halves) {
        let (a, b) = pair.split_at_mut(N);
        a.copy_from_slice(first);
        b.copy_from_slice(second);
    }
}

/// Unpacks a row, and undoes its rotation in runs of `rotation` channels.
#[inline(always)]
pub(super) fn decode_row(kind: CacheType, row: &[u8], out: &mut [f32], rotation: usize) {
    if kind != CacheType::Q8 {
        return Elements { dtype: kind.canonical(), bytes: row }.unpack(out);
    }
    unpack_q8(row, out);
    rotate(out, rotation);
}

/// The reverse of [`decode_row`]. `values` are used up.
#[inline(always)]
pub(super) fn encode_row(kind: CacheType, values: &mut [f32], row: &mut [u8], rotation: usize) {
    if kind != CacheType::Q8 {
        return put(kind.canonical(), values, row);
    }
    rotate(values, rotation);
    let blocks = row.as_chunks_mut::<{ QUANTS + 2 }>().0;
    for (values, block) in values.as_chunks::<QUANTS>().0.iter().zip(blocks) {
        let Some((scale, quants)) = block.split_first_chunk_mut::<2>() else { return };
        let step = largest(values) / 127.0;
        *scale = f16::from_f32(step).to_le_bytes();
        let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
        let mut rounded = [0; QUANTS];
        for (rounded, value) in rounded.iter_mut().zip(values) {
            *rounded = to_i8(value * inverse);
        }
        quants.copy_from_slice(&rounded);
    }
}

/// The largest magnitude, in lanes that the compiler keeps in a register. NaN counts as none.
#[inline(always)]
fn largest(values: &[f32; QUANTS]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = if value.abs() > *lane { value.abs() } else { *lane };
        }
    }
    lanes.into_iter().fold(0.0, f32::max)
}

/// The nearest integer to a value within 127 of 0, as an i8's bits. Any other value gives some integer.
#[inline(always)]
fn to_i8(value: f32) -> u8 {
    /// Where a float's last bit is worth 1, and its last byte that of the integer.
    const ONES: f32 = 12_582_912.0;
    (value + ONES).to_bits().to_le_bytes()[0]
}

/// Multiplies each run of `width` values by the normalised Hadamard matrix, its own inverse. `width` is 64 times a power of two, or
/// 0, which is none.
#[inline(always)]
fn rotate(values: &mut [f32], width: usize) {
    if width == 0 {
        return;
    }
    let scale = u16::try_from(width).map_or(1.0, |width| f32::from(width).sqrt().recip());
    for run in values.as_chunks_mut::<RUN>().0 {
        let mut mixed = *run;
        for lanes in mixed.as_chunks_mut::<LANES>().0 {
            mix::<1>(lanes);
            mix::<2>(lanes);
            mix::<4>(lanes);
        }
        butterflies::<8, 16>(&mut mixed);
        butterflies::<16, 32>(&mut mixed);
        butterflies::<32, RUN>(&mut mixed);
        mixed.iter_mut().for_each(|value| *value *= scale);
        *run = mixed;
    }
    let mut span = RUN;
    while span < width {
        for pair in values.chunks_exact_mut(2 * span) {
            let (a, b) = pair.split_at_mut(span);
            butterfly(a, b);
        }
        span *= 2;
    }
}

/// Puts sums and differences of the values that lie `SPAN` apart in their places, within a register.
#[inline(always)]
fn mix<const SPAN: usize>(lanes: &mut [f32; LANES]) {
    let other: [f32; LANES] = std::array::from_fn(|i| lanes.get(i ^ SPAN).copied().unwrap_or_default());
    let signs: [f32; LANES] = std::array::from_fn(|i| if i & SPAN == 0 { 1.0 } else { -1.0 });
    for ((lane, other), sign) in lanes.iter_mut().zip(other).zip(signs) {
        *lane = other + *lane * sign;
    }
}

/// The same of registers.
#[inline(always)]
fn butterflies<const SPAN: usize, const PAIR: usize>(values: &mut [f32; RUN]) {
    for pair in values.as_chunks_mut::<PAIR>().0 {
        let (a, b) = pair.split_at_mut(SPAN);
        butterfly(a, b);
    }
}

#[inline(always)]
fn butterfly(a: &mut [f32], b: &mut [f32]) {
    for (a, b) in a.iter_mut().zip(b) {
        (*a, *b) = (*a + *b, *a - *b);
    }
}
