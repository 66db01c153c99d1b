//! A payload on its way into its buffer, which grows as bytes arrive and never on the word of a peer.

use std::io;

use avp_wire::{ALIGNMENT, BufferPool, Bytes, FrameHead, PooledBuf};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::budget::MemoryClaim;

/// Payloads up to this size get a buffer of their own; a pooled one is 64 KiB at least.
const SMALL: usize = 16 << 10;
/// First step where the pool has no warm buffer.
const FIRST_STEP: usize = 1 << 20;
/// Each further step is so many times the bytes that have arrived.
const GROWTH: usize = 4;

/// Memory that the payload of a frame with this head takes as it comes off the wire.
pub(crate) fn memory_of(head: &FrameHead) -> u64 {
    u64::from(head.payload_len_on_wire())
}

/// A partly received payload.
#[derive(Debug)]
pub(super) struct Filling {
    buffer: Buffer,
    filled: usize,
    len: usize,
    aligned_at: usize,
    /// Held, and given back with the buffer.
    _claim: MemoryClaim,
}

#[derive(Debug)]
enum Buffer {
    Own(Vec<u8>, usize),
    Pooled(PooledBuf),
}

impl Filling {
    pub(super) fn new(head: &FrameHead, claim: MemoryClaim, pool: &BufferPool) -> Self {
        let len = usize::try_from(head.payload_len_on_wire()).unwrap_or(usize::MAX);
        let aligned_at = head.tensor_offset();
        let buffer = if len <= SMALL {
            let own = vec![0; len + ALIGNMENT];
            let offset = own.as_ptr().wrapping_add(aligned_at).align_offset(ALIGNMENT);
            Buffer::Own(own, offset)
        } else {
            // Memory that is there already may be taken on the peer's word, new memory may not.
            let first_step = || pool.get_unfaulted(len.min(FIRST_STEP), aligned_at);
            Buffer::Pooled(pool.get_warm(len, aligned_at).unwrap_or_else(first_step))
        };
        Self { buffer, filled: 0, len, aligned_at, _claim: claim }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    pub(super) fn left(&self) -> usize {
        self.len - self.filled
    }

    /// Takes bytes that were read ahead, at most as many as fit now; gives how many.
    pub(super) fn put(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        let count = bytes.len().min(room.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(from);
            self.filled += count;
        }
        count
    }

    /// One read straight into the buffer.
    pub(super) async fn read_from<R>(&mut self, io: &mut R, pool: &BufferPool) -> io::Result<usize>
    where
        R: AsyncRead + Unpin,
    {
        self.grow(pool);
        let count = io.read(self.room()).await?;
        self.filled += count;
        Ok(count)
    }

    /// The payload, once nothing is left. Memory stays claimed until its last view is dropped.
    pub(super) fn finish(self) -> Bytes {
        Bytes::from_owner(self)
    }

    fn room(&mut self) -> &mut [u8] {
        let (filled, len) = (self.filled, self.len);
        match &mut self.buffer {
            Buffer::Own(own, offset) => own.get_mut(*offset + filled..*offset + len),
            Buffer::Pooled(pooled) => pooled.get_mut(filled..),
        }
        .unwrap_or_default()
    }

    /// Makes room when the buffer is full and the payload is not.
    fn grow(&mut self, pool: &BufferPool) {
        if let Buffer::Pooled(full) = &mut self.buffer
            && full.len() == self.filled
            && self.filled < self.len
        {
            let mut larger =
                pool.get_unfaulted(self.filled.saturating_mul(GROWTH).min(self.len), self.aligned_at);
            if let Some(start) = larger.get_mut(..self.filled) {
                start.copy_from_slice(full);
            }
            *full = larger;
        }
    }
}

impl AsRef<[u8]> for Filling {
    fn as_ref(&self) -> &[u8] {
        match &self.buffer {
            Buffer::Own(own, offset) => own.get(*offset..*offset + self.filled),
            Buffer::Pooled(pooled) => pooled.get(..self.filled),
        }
        .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use avp_wire::{EncodeOptions, Frame, Limits, Metadata, PayloadType};

    use super::*;
    use crate::budget::MemoryBudget;

    async fn filling(payload_type: PayloadType, len: usize, pool: &BufferPool) -> Filling {
        let metadata = Metadata { payload_type, ..Metadata::default() };
        let frame = Frame::new(metadata, vec![0; len]).encode(&EncodeOptions::default()).unwrap();
        let head = FrameHead::decode(&frame.head, &Limits::default()).unwrap();
        let claim = MemoryBudget::new(1 << 30).claim(memory_of(&head), Duration::ZERO).await.unwrap();
        Filling::new(&head, claim, pool)
    }

    fn capacity(filling: &Filling) -> usize {
        match &filling.buffer {
            Buffer::Own(own, _) => own.len(),
            Buffer::Pooled(pooled) => pooled.len(),
        }
    }

    #[tokio::test]
    async fn memory_follows_the_bytes_that_arrived_not_the_length_announced() {
        let pool = BufferPool::new(0);
        let source: Vec<u8> = (0..20 << 20).map(|i: u32| (i % 251) as u8).collect();
        let mut filling = filling(PayloadType::HiddenState, source.len(), &pool).await;
        assert_eq!(capacity(&filling), FIRST_STEP);
        let mut io = &source[..];
        while filling.left() > 0 {
            filling.read_from(&mut io, &pool).await.unwrap();
            assert!(capacity(&filling) <= FIRST_STEP.max(GROWTH * filling.filled()));
        }
        assert_eq!(filling.finish(), source);
    }

    #[tokio::test]
    async fn a_warm_buffer_is_taken_whole() {
        let pool = BufferPool::new(64 << 20);
        drop(pool.get(8 << 20, 0));
        let filling = filling(PayloadType::HiddenState, 8 << 20, &pool).await;
        assert_eq!((capacity(&filling), pool.kept_bytes()), (8 << 20, 0));
    }

    #[tokio::test]
    async fn short_warm_buffers_do_not_add_up_to_a_long_one() {
        let pool = BufferPool::new(64 << 20);
        drop((pool.get(4 << 20, 0), pool.get(4 << 20, 0)));
        let filling = filling(PayloadType::HiddenState, 8 << 20, &pool).await;
        assert_eq!(capacity(&filling), FIRST_STEP);
    }

    #[tokio::test]
    async fn tensor_data_is_aligned_whatever_the_size_and_type() {
        let pool = BufferPool::new(0);
        for (payload_type, start) in [(PayloadType::KvCache, 17), (PayloadType::HiddenState, 0)] {
            for len in [64, SMALL, SMALL + 1, FIRST_STEP * 3] {
                let mut filling = filling(payload_type, len, &pool).await;
                let source = vec![7; len];
                let mut io = &source[..];
                while filling.left() > 0 {
                    filling.read_from(&mut io, &pool).await.unwrap();
                }
                let payload = filling.finish();
                assert_eq!(payload.len(), len);
                assert_eq!(payload[start..].as_ptr().align_offset(ALIGNMENT), 0);
            }
        }
    }
}
