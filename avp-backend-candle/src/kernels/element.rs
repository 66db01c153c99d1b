//! The types that weights are stored in, and their values in f32.
#![allow(unsafe_code)]

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Most values that are widened at a time, so that they are still in the first-level cache when they are used.
pub(super) const PIECE: usize = 512;

/// An element type of weights.
pub(crate) trait Element: Copy + Send + Sync {
    /// How many values are best widened at a time.
    const PIECE: usize = PIECE;

    /// `values` in f32, written to `buffer`, which has room for them, unless they are. `ahead` is what will be asked for soon.
    fn widen<'a>(values: &'a [Self], ahead: &[Self], buffer: &'a mut [f32]) -> &'a [f32];
}

impl Element for f32 {
    const PIECE: usize = usize::MAX;

    /// Nothing is fetched ahead: a loop over several rows at once leaves that to the processor, which does it as well.
    #[inline(always)]
    fn widen<'a>(values: &'a [Self], _: &[Self], _: &'a mut [f32]) -> &'a [f32] {
        values
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen<'a>(values: &'a [Self], ahead: &[Self], buffer: &'a mut [f32]) -> &'a [f32] {
        prefetch(ahead);
        for (wide, value) in buffer.iter_mut().zip(values) {
            *wide = f32::from_bits(u32::from(value.to_bits()) << 16);
        }
        buffer.get(..values.len()).unwrap_or_default()
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen<'a>(values: &'a [Self], ahead: &[Self], buffer: &'a mut [f32]) -> &'a [f32] {
        prefetch(ahead);
        let Some(buffer) = buffer.get_mut(..values.len()) else { return &[] };
        widen_halves(values, buffer);
        buffer
    }
}

/// f16 to f32, `wide` being as long as `halves`.
#[inline(always)]
fn widen_halves(halves: &[f16], wide: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has AVX-512F, which is all that the function asks for.
        return unsafe { widen_sixteens(halves, wide) };
    }
    halves.convert_to_f32_slice(wide);
}

/// Sixteen at a time; the `half` crate has instructions for eight, and a call for each.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_sixteens(halves: &[f16], wide: &mut [f32]) {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};

    let (sixteens, rest) = halves.as_chunks::<16>();
    let (targets, last) = wide.as_chunks_mut::<16>();
    for (sixteen, target) in sixteens.iter().zip(targets) {
        // SAFETY: both are arrays of sixteen, of 32 and of 64 bytes; neither access needs an alignment.
        unsafe {
            let values = _mm512_cvtph_ps(_mm256_loadu_si256(sixteen.as_ptr().cast()));
            _mm512_storeu_ps(target.as_mut_ptr(), values);
        }
    }
    rest.iter().zip(last).for_each(|(half, wide)| *wide = half.to_f32());
}

/// Asks for the cache lines of `values`.
#[inline(always)]
fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks((64 / size_of::<T>().max(1)).max(1)) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, and the address is that of a value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
