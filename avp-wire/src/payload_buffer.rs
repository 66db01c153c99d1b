//! A payload on its way into its buffer, which grows as bytes arrive and never on the word of a peer.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::encode::ALIGNMENT;
use crate::frame::FrameHead;
use crate::header::to_usize;
#[cfg(feature = "std")]
use crate::pool::{BufferPool, PooledBuf};

/// Payloads up to this size get a buffer of their own; a pooled one is 64 KiB at least.
#[cfg(feature = "std")]
const SMALL: usize = 16 << 10;
/// First step where there is no warm buffer.
const FIRST_STEP: usize = 1 << 20;
/// Each further step is so many times the bytes that have arrived.
const GROWTH: usize = 4;

/// A payload that arrives in parts, tensor data 64-byte aligned.
///
/// ```
/// use avp_wire::{EncodeOptions, Frame, FrameHead, Limits, Metadata, PayloadBuffer};
///
/// let encoded = Frame::new(Metadata::default(), vec![7; 100]).encode(&EncodeOptions::default()).unwrap();
/// let head = FrameHead::decode(&encoded.head, &Limits::default()).unwrap();
/// let mut buffer = PayloadBuffer::new(&head);
/// for piece in encoded.payload.chunks(30) {
///     buffer.put(piece);
/// }
/// assert_eq!(buffer.left(), 0);
/// let frame = head.into_frame(buffer.finish(), &Limits::default()).unwrap();
/// ```
#[derive(Debug)]
pub struct PayloadBuffer {
    storage: Storage,
    filled: usize,
    len: usize,
    aligned_at: usize,
    checksum: Option<crc32fast::Hasher>,
    #[cfg(feature = "std")]
    pool: Option<BufferPool>,
}

#[derive(Debug)]
enum Storage {
    Own {
        bytes: Vec<u8>,
        offset: usize,
        len: usize,
    },
    #[cfg(feature = "std")]
    Pooled(PooledBuf),
}

impl PayloadBuffer {
    /// A buffer for the payload of a frame with this head, as it is on the wire.
    #[must_use]
    pub fn new(head: &FrameHead) -> Self {
        let (len, aligned_at) = (to_usize(head.payload_len_on_wire()), head.tensor_offset());
        let storage = Storage::own(len.min(FIRST_STEP), aligned_at);
        Self {
            storage,
            filled: 0,
            len,
            aligned_at,
            checksum: None,
            #[cfg(feature = "std")]
            pool: None,
        }
    }

    /// As [`new`](Self::new), from a pool. Memory that is there already is taken on the peer's word, new memory is
    /// not.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn pooled(head: &FrameHead, pool: &BufferPool) -> Self {
        let (len, aligned_at) = (to_usize(head.payload_len_on_wire()), head.tensor_offset());
        if len <= SMALL {
            return Self::new(head);
        }
        let first_step = || pool.get_unfaulted(len.min(FIRST_STEP), aligned_at);
        let storage = Storage::Pooled(pool.get_warm(len, aligned_at).unwrap_or_else(first_step));
        Self { storage, filled: 0, len, aligned_at, checksum: None, pool: Some(pool.clone()) }
    }

    /// Sums the bytes as they arrive, while they are in the processor's cache; called before the first do.
    /// [`FrameHead::sums_on_arrival`] says whether that is of use.
    #[must_use]
    pub fn summing(self) -> Self {
        Self { checksum: Some(crc32fast::Hasher::new()), ..self }
    }

    /// CRC-32 of the bytes that have arrived, where they are [summed](Self::summing).
    #[must_use]
    pub fn checksum(&self) -> Option<u32> {
        self.checksum.clone().map(crc32fast::Hasher::finalize)
    }

    /// Bytes of the whole payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the payload has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that are there.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Bytes that are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        self.len.saturating_sub(self.filled)
    }

    /// Takes bytes from the start of `bytes` until the payload is whole; gives how many.
    pub fn put(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes.get(..bytes.len().min(self.left())).unwrap_or_default();
        let all = rest.len();
        while !rest.is_empty() {
            let room = self.room();
            let (now, later) = rest.split_at(rest.len().min(room.len()));
            if let Some(to) = room.get_mut(..now.len()) {
                to.copy_from_slice(now);
            }
            self.advance(now.len());
            rest = later;
        }
        all
    }

    /// Where the next bytes go; empty only once the payload is whole. Call [`advance`](Self::advance) after writing.
    pub fn room(&mut self) -> &mut [u8] {
        if self.filled == self.storage.len() && self.filled < self.len {
            self.grow();
        }
        self.storage.bytes_mut().get_mut(self.filled..).unwrap_or_default()
    }

    /// Says that `count` bytes were written to [`room`](Self::room).
    pub fn advance(&mut self, count: usize) {
        let end = self.filled.saturating_add(count).min(self.storage.len());
        if let Some(checksum) = &mut self.checksum {
            checksum.update(self.storage.bytes().get(self.filled..end).unwrap_or_default());
        }
        self.filled = end;
    }

    /// The bytes that have arrived, as one view.
    #[must_use]
    pub fn finish(self) -> Bytes {
        Bytes::from_owner(self)
    }

    fn grow(&mut self) {
        let len = self.filled.saturating_mul(GROWTH).min(self.len);
        let mut larger = self.larger(len);
        if let (Some(to), Some(from)) =
            (larger.bytes_mut().get_mut(..self.filled), self.storage.bytes().get(..self.filled))
        {
            to.copy_from_slice(from);
        }
        self.storage = larger;
    }

    fn larger(&self, len: usize) -> Storage {
        #[cfg(feature = "std")]
        if let Some(pool) = &self.pool {
            return Storage::Pooled(pool.get_unfaulted(len, self.aligned_at));
        }
        Storage::own(len, self.aligned_at)
    }
}

impl AsRef<[u8]> for PayloadBuffer {
    fn as_ref(&self) -> &[u8] {
        self.storage.bytes().get(..self.filled).unwrap_or_default()
    }
}

impl Storage {
    fn own(len: usize, aligned_at: usize) -> Self {
        let bytes = alloc::vec![0; len.saturating_add(ALIGNMENT)];
        let offset = bytes.as_ptr().wrapping_add(aligned_at).align_offset(ALIGNMENT);
        Self::Own { bytes, offset, len }
    }

    fn len(&self) -> usize {
        match self {
            Self::Own { len, .. } => *len,
            #[cfg(feature = "std")]
            Self::Pooled(buffer) => buffer.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own { bytes, offset, len } => {
                bytes.get(*offset..offset.saturating_add(*len)).unwrap_or_default()
            }
            #[cfg(feature = "std")]
            Self::Pooled(buffer) => buffer,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own { bytes, offset, len } => {
                bytes.get_mut(*offset..offset.saturating_add(*len)).unwrap_or_default()
            }
            #[cfg(feature = "std")]
            Self::Pooled(buffer) => buffer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EncodeOptions, Frame, KvHeader, Limits, Metadata, PayloadType};

    fn head(payload_type: PayloadType, len: usize) -> FrameHead {
        let metadata = Metadata { payload_type, ..Metadata::default() };
        let frame = Frame::new(metadata, vec![0; len]).encode(&EncodeOptions::default()).unwrap();
        FrameHead::decode(&frame.head, &Limits::default()).unwrap()
    }

    fn hidden(len: usize) -> FrameHead {
        head(PayloadType::HiddenState, len)
    }

    // spec: limits 2.4
    #[test]
    fn memory_follows_the_bytes_that_arrived_not_the_length_announced() {
        let source: Vec<u8> = (0..20 << 20).map(|i: u32| (i % 251) as u8).collect();
        let head = hidden(source.len());
        let new = [PayloadBuffer::new(&head), PayloadBuffer::pooled(&head, &BufferPool::new(0))];
        for mut buffer in new {
            assert_eq!(buffer.storage.len(), FIRST_STEP);
            for piece in source.chunks(99_999) {
                assert_eq!(buffer.put(piece), piece.len());
                assert!(buffer.storage.len() <= FIRST_STEP.max(GROWTH * buffer.filled()));
            }
            assert_eq!(buffer.finish(), source);
        }
    }

    #[test]
    fn bytes_are_summed_as_they_arrive_whatever_the_split_and_the_steps() {
        let source: Vec<u8> = (0..5 << 20).map(|i: u32| (i % 251) as u8).collect();
        for piece in [99_999, 1 << 20, source.len()] {
            let mut buffer = PayloadBuffer::new(&hidden(source.len())).summing();
            let mut there = 0;
            for piece in source.chunks(piece) {
                there += buffer.put(piece);
                assert_eq!(buffer.checksum(), Some(crc32fast::hash(&source[..there])));
            }
            assert_eq!(there, source.len());
        }
        assert_eq!(PayloadBuffer::new(&hidden(64)).checksum(), None);
    }

    #[test]
    fn a_warm_buffer_is_taken_whole() {
        let pool = BufferPool::new(64 << 20);
        drop(pool.get(8 << 20, 0));
        let buffer = PayloadBuffer::pooled(&hidden(8 << 20), &pool);
        assert_eq!((buffer.storage.len(), pool.kept_bytes()), (8 << 20, 0));
    }

    #[test]
    fn short_warm_buffers_do_not_add_up_to_a_long_one() {
        let pool = BufferPool::new(64 << 20);
        drop((pool.get(4 << 20, 0), pool.get(4 << 20, 0)));
        assert_eq!(PayloadBuffer::pooled(&hidden(8 << 20), &pool).storage.len(), FIRST_STEP);
    }

    #[test]
    fn tensor_data_is_aligned_whatever_the_size_and_type() {
        let pool = BufferPool::new(0);
        for (payload_type, start) in [(PayloadType::KvCache, KvHeader::SIZE), (PayloadType::HiddenState, 0)] {
            for len in [64, SMALL, SMALL + 1, FIRST_STEP * 3] {
                let head = head(payload_type, len);
                for mut buffer in [PayloadBuffer::new(&head), PayloadBuffer::pooled(&head, &pool)] {
                    assert_eq!(buffer.put(&vec![7; len + 5]), len);
                    let payload = buffer.finish();
                    assert_eq!(payload.len(), len);
                    assert_eq!(payload[start..].as_ptr().align_offset(ALIGNMENT), 0);
                }
            }
        }
    }

    #[test]
    fn no_more_is_taken_than_the_payload_has() {
        let mut buffer = PayloadBuffer::new(&hidden(3));
        buffer.room().copy_from_slice(b"abc");
        buffer.advance(usize::MAX);
        assert!(buffer.room().is_empty());
        assert_eq!((buffer.left(), buffer.put(b"d")), (0, 0));
        assert_eq!(buffer.finish(), &b"abc"[..]);
    }
}
