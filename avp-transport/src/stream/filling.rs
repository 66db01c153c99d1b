//! A payload on its way into its buffer, and the memory claimed for it.

use std::io;

use avp_wire::{BufferPool, Bytes, FrameHead, PayloadBuffer};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::budget::MemoryClaim;

/// Memory that the payload of a frame with this head takes as it comes off the wire.
pub(crate) fn memory_of(head: &FrameHead) -> u64 {
    u64::from(head.payload_len_on_wire())
}

/// A partly received payload.
#[derive(Debug)]
pub(crate) struct Filling {
    buffer: PayloadBuffer,
    /// Held, and given back with the buffer.
    _claim: MemoryClaim,
}

impl Filling {
    pub(super) fn new(head: &FrameHead, claim: MemoryClaim, pool: &BufferPool) -> Self {
        Self { buffer: PayloadBuffer::pooled(head, pool), _claim: claim }
    }

    /// Sums the bytes as they arrive.
    pub(super) fn summing(self) -> Self {
        Self { buffer: self.buffer.summing(), ..self }
    }

    /// The sum of the bytes that have arrived, where they are summed.
    pub(super) fn checksum(&self) -> Option<u32> {
        self.buffer.checksum()
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn filled(&self) -> usize {
        self.buffer.filled()
    }

    pub(super) fn left(&self) -> usize {
        self.buffer.left()
    }

    /// Takes bytes that were read ahead, at most as many as belong to the payload; gives how many.
    pub(super) fn put(&mut self, bytes: &[u8]) -> usize {
        self.buffer.put(bytes)
    }

    /// One read straight into the buffer.
    pub(super) async fn read_from<R>(&mut self, io: &mut R) -> io::Result<usize>
    where
        R: AsyncRead + Unpin,
    {
        let count = io.read(self.buffer.room()).await?;
        self.buffer.advance(count);
        Ok(count)
    }

    /// The payload, once nothing is left. Memory stays claimed until its last view is dropped.
    pub(super) fn finish(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Filling {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}
