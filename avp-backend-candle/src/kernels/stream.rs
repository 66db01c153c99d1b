//! Copies of more than the caches hold.
#![allow(unsafe_code)]

/// Transfers of at least this many bytes go past the caches: what is written is not read again soon, and without
/// fetching each line first a large copy is nearly twice as fast. The C library does so only for single copies
/// of this size, not for the many runs that a KV cache consists of.
pub(crate) const LARGE: usize = 32 << 20;

/// Copies `source` to `target`, which must be equally long; past the caches if `large`.
pub(crate) fn copy(target: &mut [u8], source: &[u8], large: bool) {
    #[cfg(target_arch = "x86_64")]
    if large && target.len() == source.len() {
        return stream(target, source);
    }
    let _ = large;
    target.copy_from_slice(source);
}

/// Lines of 64 bytes in a page.
#[cfg(target_arch = "x86_64")]
const PAGE: usize = 64;

#[cfg(target_arch = "x86_64")]
fn stream(target: &mut [u8], source: &[u8]) {
    use std::arch::x86_64::_mm_sfence;

    // SAFETY: every bit pattern is a valid Line, which has no padding, and a valid [u8; 64].
    let (head, body, tail) = unsafe { target.align_to_mut::<Line>() };
    let (first, rest) = source.split_at(head.len());
    let (lines, last) = rest.as_chunks::<64>();
    head.copy_from_slice(first);
    // Two pages at a time, so that more reads are under way at once.
    for (to, from) in body.chunks_mut(2 * PAGE).zip(lines.chunks(2 * PAGE)) {
        let (to_a, to_b) = to.split_at_mut(to.len().min(PAGE));
        let (from_a, from_b) = from.split_at(from.len().min(PAGE));
        let (mut b, mut from_b) = (to_b.iter_mut(), from_b.iter());
        for (to, from) in to_a.iter_mut().zip(from_a) {
            to.stream(from);
            if let (Some(to), Some(from)) = (b.next(), from_b.next()) {
                to.stream(from);
            }
        }
    }
    // SAFETY: an instruction without operands. It orders the stores above before whatever follows, as streaming
    // stores require before the memory is used again.
    unsafe { _mm_sfence() };
    tail.copy_from_slice(last);
}

/// A cache line.
#[cfg(target_arch = "x86_64")]
#[repr(C, align(64))]
struct Line([std::arch::x86_64::__m128i; 4]);

#[cfg(target_arch = "x86_64")]
impl Line {
    #[inline(always)]
    fn stream(&mut self, source: &[u8; 64]) {
        use std::arch::x86_64::{_mm_loadu_si128, _mm_stream_si128};

        for (to, from) in self.0.iter_mut().zip(source.as_chunks::<16>().0) {
            // SAFETY: `from` is 16 readable bytes, for a load without alignment; `to` is 16 writable bytes,
            // aligned because it is an __m128i. SSE2 is part of every x86-64.
            unsafe { _mm_stream_si128(to, _mm_loadu_si128(from.as_ptr().cast())) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_exact_at_every_alignment_and_length() {
        let source: Vec<u8> = (0..12_400u32).map(|i| (i * 7 % 251) as u8).collect();
        for at in [0, 1, 15, 16, 48, 63, 64, 65] {
            for len in [0, 1, 63, 64, 65, 200, 4096, 8191, 8192, 12_345] {
                for large in [false, true] {
                    let mut target = vec![0xEE; 12_500];
                    copy(&mut target[at..at + len], &source[3..3 + len], large);
                    assert_eq!(target[at..at + len], source[3..3 + len]);
                    assert!(target[..at].iter().chain(&target[at + len..]).all(|b| *b == 0xEE));
                }
            }
        }
    }
}
