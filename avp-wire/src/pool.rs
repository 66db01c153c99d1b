//! Recycled, aligned, already faulted buffers.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::encode::ALIGNMENT;

const PAGE: usize = 4096;
/// Buffers are made in steps of this, so that payloads of similar length share them.
const STEP: usize = 64 << 10;

/// A pool of payload buffers. Cloning gives another handle on the same pool.
///
/// Fresh pages cost several times a copy to warm memory, so buffers come back here when the last view of them
/// is dropped, up to a budget of bytes kept. Contents of a buffer are unspecified: write all of it.
///
/// ```
/// use avp_wire::{BufferPool, KvDtype, KvHeader};
///
/// let pool = BufferPool::new(64 << 20);
/// let header = KvHeader { num_layers: 1, num_kv_heads: 1, head_dim: 2, seq_len: 1, dtype: KvDtype::F32 };
/// let mut buffer = pool.get(header.payload_len().unwrap(), KvHeader::SIZE);
/// let planes = header.write_to(&mut buffer).unwrap();
/// assert_eq!(planes.as_ptr().align_offset(64), 0);
/// planes.fill(0);
/// let payload: bytes::Bytes = buffer.freeze();
/// # assert_eq!(payload.len(), 17 + 16);
/// ```
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
    source: Option<Arc<dyn BufferSource>>,
}

/// Where a pool takes buffers from that are to live in particular memory, such as memory shared with another process.
pub trait BufferSource: Send + Sync + fmt::Debug {
    /// Faulted memory of at least `len` bytes, or `None` to have the pool use its own. Dropping it gives it back.
    fn take(&self, len: usize) -> Option<Box<dyn SourceMemory>>;
}

/// Memory of a [`BufferSource`]. Both views are the same bytes at the same address for as long as it lives.
pub trait SourceMemory: AsRef<[u8]> + AsMut<[u8]> + Send + Sync {}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Send + Sync> SourceMemory for T {}

struct Shared {
    budget: usize,
    kept: Mutex<Kept>,
    lent: AtomicUsize,
}

#[derive(Default)]
struct Kept {
    /// Longest unused first.
    buffers: Vec<Vec<u8>>,
    bytes: usize,
}

impl BufferPool {
    /// A pool that keeps at most `budget` bytes of buffers that nobody uses.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        let lent = AtomicUsize::new(0);
        Self { shared: Arc::new(Shared { budget, kept: Mutex::default(), lent }), source: None }
    }

    /// The same pool, whose [`get`](Self::get) asks `source` first.
    #[must_use]
    pub fn with_source(self, source: Arc<dyn BufferSource>) -> Self {
        Self { source: Some(source), ..self }
    }

    /// A buffer of `len` bytes whose byte at `aligned_at` is 64-byte aligned: 17 for KV payloads
    /// ([`KvHeader::SIZE`](crate::KvHeader::SIZE)), 0 for others. All of its pages are faulted in.
    #[must_use]
    pub fn get(&self, len: usize, aligned_at: usize) -> PooledBuf {
        match self.source.as_ref().and_then(|source| source.take(storage_len(len))) {
            Some(memory) => aligned(Storage::Sourced(memory), len, aligned_at),
            None => self.take(len, aligned_at, true),
        }
    }

    /// As [`get`](Self::get), but memory that is not recycled is only reserved: pages come as they are written.
    /// For receiving, where it is not known whether all of the buffer will be filled.
    #[must_use]
    pub fn get_unfaulted(&self, len: usize, aligned_at: usize) -> PooledBuf {
        self.take(len, aligned_at, false)
    }

    /// As [`get`](Self::get), but only from what is kept: `None` rather than new memory. For receiving, where a
    /// length is a peer's word until its bytes arrive.
    #[must_use]
    pub fn get_warm(&self, len: usize, aligned_at: usize) -> Option<PooledBuf> {
        let storage = self.shared.lock().take(storage_len(len))?;
        Some(self.own(storage, len, aligned_at))
    }

    /// Bytes of unused buffers that are kept now.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.shared.lock().bytes
    }

    /// Bytes of buffers that are in use now and come back when their last view is dropped.
    #[must_use]
    pub fn lent_bytes(&self) -> usize {
        self.shared.lent.load(Ordering::Relaxed)
    }

    fn take(&self, len: usize, aligned_at: usize, fault: bool) -> PooledBuf {
        self.get_warm(len, aligned_at)
            .unwrap_or_else(|| self.own(fresh(storage_len(len), fault), len, aligned_at))
    }

    fn own(&self, storage: Vec<u8>, len: usize, aligned_at: usize) -> PooledBuf {
        self.shared.lent.fetch_add(storage.len(), Ordering::Relaxed);
        aligned(Storage::Own(storage, Arc::clone(&self.shared)), len, aligned_at)
    }
}

fn aligned(storage: Storage, len: usize, aligned_at: usize) -> PooledBuf {
    let offset = storage.bytes().as_ptr().wrapping_add(aligned_at).align_offset(ALIGNMENT);
    PooledBuf { storage, offset, len }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("budget", &self.shared.budget)
            .field("kept", &self.kept_bytes())
            .field("source", &self.source)
            .finish()
    }
}

/// Bytes that a buffer needs to hold `len` wherever alignment puts their start.
fn storage_len(len: usize) -> usize {
    len.saturating_add(ALIGNMENT)
}

fn fresh(needed: usize, fault: bool) -> Vec<u8> {
    // Zeroed by the allocator, which for large buffers means pages that are not there yet.
    let mut storage = vec![0; needed.checked_next_multiple_of(STEP).unwrap_or(needed)];
    if fault {
        for byte in storage.iter_mut().step_by(PAGE) {
            // Not zero, or the store could be seen as saying nothing new.
            *byte = 1;
        }
    }
    storage
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, storage: Vec<u8>) {
        if storage.len() > self.budget {
            return;
        }
        let mut kept = self.lock();
        let mut dropped = Vec::new();
        while kept.bytes.saturating_add(storage.len()) > self.budget && !kept.buffers.is_empty() {
            let old = kept.buffers.remove(0);
            kept.bytes -= old.len();
            dropped.push(old);
        }
        kept.bytes += storage.len();
        kept.buffers.push(storage);
        // Memory goes back to the system outside the lock.
        drop(kept);
        drop(dropped);
    }
}

impl Kept {
    /// The smallest buffer that is long enough, unless it is so much longer that it is worth keeping.
    fn take(&mut self, needed: usize) -> Option<Vec<u8>> {
        let most = needed.saturating_mul(4).max(STEP);
        let fits = |len: usize| (needed..=most).contains(&len);
        let candidates = self.buffers.iter().enumerate().filter(|(_, buffer)| fits(buffer.len()));
        let (index, _) = candidates.min_by_key(|(_, buffer)| buffer.len())?;
        let storage = self.buffers.remove(index);
        self.bytes -= storage.len();
        Some(storage)
    }
}

/// A buffer from a [`BufferPool`], to be written and frozen. It goes back when it, or the last view of what it
/// was frozen to, is dropped.
pub struct PooledBuf {
    storage: Storage,
    offset: usize,
    len: usize,
}

enum Storage {
    /// Goes back to its pool.
    Own(Vec<u8>, Arc<Shared>),
    /// Goes back to its source by being dropped.
    Sourced(Box<dyn SourceMemory>),
}

impl Storage {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes, _) => bytes,
            Self::Sourced(memory) => (**memory).as_ref(),
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Own(bytes, _) => bytes,
            Self::Sourced(memory) => (**memory).as_mut(),
        }
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        if let Self::Own(bytes, pool) = self {
            pool.lent.fetch_sub(bytes.len(), Ordering::Relaxed);
            pool.give_back(std::mem::take(bytes));
        }
    }
}

impl PooledBuf {
    /// Shares the buffer as `Bytes`, without a copy.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Cuts the buffer to its first `len` bytes; longer than it is changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Deref for PooledBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.storage.bytes().get(self.offset..self.offset.saturating_add(self.len)).unwrap_or_default()
    }
}

impl DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.storage
            .bytes_mut()
            .get_mut(self.offset..self.offset.saturating_add(self.len))
            .unwrap_or_default()
    }
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for PooledBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuf").field("len", &self.len).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asked_for_byte_is_aligned() {
        let pool = BufferPool::new(1 << 20);
        for aligned_at in [0, 1, 17, 63, 64, 1000] {
            let buffer = pool.get(2000, aligned_at);
            assert_eq!(buffer.len(), 2000);
            assert_eq!(buffer[aligned_at..].as_ptr().align_offset(ALIGNMENT), 0);
        }
    }

    #[test]
    fn a_buffer_is_recycled_when_its_last_view_is_gone() {
        let pool = BufferPool::new(1 << 20);
        let buffer = pool.get(1000, 0);
        let address = buffer.as_ptr();
        let bytes = buffer.freeze();
        let view = bytes.slice(10..20);
        drop(bytes);
        assert_eq!((pool.kept_bytes(), pool.lent_bytes()), (0, STEP));
        drop(view);
        assert_eq!((pool.kept_bytes(), pool.lent_bytes()), (STEP, 0));
        assert_eq!(pool.get(1000, 0).as_ptr(), address);
    }

    #[test]
    fn no_more_than_the_budget_is_kept() {
        let pool = BufferPool::new(4 * STEP);
        let buffers: Vec<_> = (1..=3).map(|n| pool.get(n * STEP - ALIGNMENT, 0)).collect();
        drop(buffers);
        assert_eq!(pool.kept_bytes(), 3 * STEP);
        drop(pool.get(8 * STEP, 0));
        assert_eq!(pool.kept_bytes(), 3 * STEP);
    }

    #[test]
    fn a_small_request_does_not_take_a_large_buffer() {
        let pool = BufferPool::new(64 * STEP);
        drop(pool.get(32 * STEP, 0));
        let small = pool.get(100, 0);
        assert_eq!(pool.kept_bytes(), 33 * STEP);
        drop(small);
    }

    #[test]
    fn a_warm_buffer_is_a_kept_one_and_never_new_memory() {
        let pool = BufferPool::new(64 * STEP);
        drop((pool.get(2 * STEP, 0), pool.get(3 * STEP, 0)));
        let kept = pool.kept_bytes();
        assert!(pool.get_warm(4 * STEP, 0).is_none());
        assert_eq!(pool.kept_bytes(), kept);
        let warm = pool.get_warm(3 * STEP, 17).unwrap();
        assert_eq!((warm.len(), warm[17..].as_ptr().align_offset(ALIGNMENT)), (3 * STEP, 0));
        assert_eq!(pool.kept_bytes(), kept - warm.storage.bytes().len());
    }

    #[test]
    fn truncating_shortens_and_never_lengthens() {
        let mut buffer = BufferPool::new(0).get_unfaulted(100, 0);
        buffer.truncate(40);
        buffer.truncate(50);
        assert_eq!(buffer.freeze().len(), 40);
    }

    #[test]
    fn a_source_is_asked_first_and_what_it_gives_goes_back_to_it_alone() {
        #[derive(Debug)]
        struct Short;
        impl BufferSource for Short {
            fn take(&self, len: usize) -> Option<Box<dyn SourceMemory>> {
                (len < 10_000).then(|| Box::new(vec![7_u8; len]) as Box<dyn SourceMemory>)
            }
        }
        let pool = BufferPool::new(64 * STEP).with_source(Arc::new(Short));
        let mut buffer = pool.get(1000, 17);
        assert_eq!((buffer.len(), buffer[17..].as_ptr().align_offset(ALIGNMENT)), (1000, 0));
        buffer[0] = 1;
        let bytes = buffer.freeze();
        assert_eq!((bytes[0], bytes[999]), (1, 7));
        drop(bytes);
        assert_eq!(pool.kept_bytes(), 0);
        drop(pool.get(20_000, 0));
        assert_eq!(pool.kept_bytes(), STEP);
        assert!(pool.get_warm(1000, 0).is_some(), "receiving never takes from the source");
    }
}
