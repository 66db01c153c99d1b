//! Arithmetic in the widest registers that the processor has, and copies past its caches.

use half::f16;

/// Bytes and elements of a block of q8_0: a scale in f16, then the elements as integers.
const BLOCK_BYTES: usize = 34;
const BLOCK: usize = 32;

/// Does work with the registers of AVX2 where the processor has them: what is compiled for any x86-64 has SSE2 alone. What is to be
/// wide must be inlined into `work`.
#[inline(always)]
pub(crate) fn wide<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }

        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2, which is all that the function asks for.
            return unsafe { avx2(work) };
        }
    }
    work()
}

/// `sum += weight * values`.
pub(crate) fn add_scaled(sum: &mut [f32], values: &[f32], weight: f32) {
    wide(
        #[inline(always)]
        || sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += weight * value),
    );
}

/// Unpacks blocks of q8_0. ggml's own function for it is compiled for any processor.
#[inline(always)]
pub(crate) fn unpack_q8(blocks: &[u8], out: &mut [f32]) {
    for (block, out) in blocks.as_chunks::<BLOCK_BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        let Some((scale, quants)) = block.split_first_chunk::<2>() else { return };
        let scale = f16::from_le_bytes(*scale).to_f32();
        // What is written could be what is read next, for all that the compiler knows: so all of it at once.
        let mut values = [0.0; BLOCK];
        for (value, quant) in values.iter_mut().zip(quants) {
            *value = f32::from(quant.cast_signed()) * scale;
        }
        *out = values;
    }
}

/// Copies `from` to `to`, which must be equally long, past the caches where that is possible: what is written is not read again soon,
/// and its lines need not be fetched. [`fence`] when all is copied.
pub(crate) fn stream(to: &mut [u8], from: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si32, _mm_stream_si128};

        // SAFETY: every bit pattern is valid in all of these types.
        if let ([], wide, []) = unsafe { to.align_to_mut::<__m128i>() } {
            for (to, from) in wide.iter_mut().zip(from.as_chunks::<16>().0) {
                // SAFETY: both are 16 bytes, the first aligned. SSE2 is part of every x86-64.
                unsafe { _mm_stream_si128(to, _mm_loadu_si128(from.as_ptr().cast())) };
            }
            return;
        }
        // SAFETY: as above.
        if let ([], narrow, []) = unsafe { to.align_to_mut::<i32>() } {
            for (to, from) in narrow.iter_mut().zip(from.as_chunks::<4>().0) {
                // SAFETY: `to` is 4 aligned bytes.
                unsafe { _mm_stream_si32(to, i32::from_ne_bytes(*from)) };
            }
            return;
        }
    }
    to.copy_from_slice(from);
}

/// Has what was [streamed](stream) come before whatever follows.
pub(crate) fn fence() {
    // SAFETY: an instruction without operands.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_exact_at_every_alignment_and_length() {
        let source: Vec<u8> = (0..700_u32).map(|i| (i * 7 % 251) as u8).collect();
        for at in [0, 1, 2, 4, 8, 12, 16, 63, 64] {
            for len in [0, 1, 4, 12, 16, 64, 127, 128, 500] {
                let mut target = vec![0xEE; 640];
                stream(&mut target[at..at + len], &source[3..3 + len]);
                fence();
                assert_eq!(target[at..at + len], source[3..3 + len]);
                assert!(target[..at].iter().chain(&target[at + len..]).all(|byte| *byte == 0xEE));
            }
        }
    }
}
