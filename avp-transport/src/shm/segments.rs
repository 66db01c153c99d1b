//! The peer's memory that one connection has mapped, and where payloads lie in it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::fault::ShmFault;
use super::memory::{PeerMemoryError, PeerSegment};
use super::options::ShmMode;
use super::wire::MAX_SEGMENTS;

/// Where a payload lies.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) segment: Arc<PeerSegment>,
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// The segments that the peer has passed and not retired.
#[derive(Debug)]
pub(super) struct Segments {
    mode: ShmMode,
    /// Bytes to map at most.
    limit: u64,
    mapped: BTreeMap<u32, Arc<PeerSegment>>,
}

impl Segments {
    pub(super) fn new(mode: ShmMode, limit: u64) -> Self {
        Self { mode, limit, mapped: BTreeMap::new() }
    }

    pub(super) fn map(&mut self, id: u32, size: u64, descriptor: &OwnedFd) -> Result<(), PeerMemoryError> {
        let mapped: u64 = self.mapped.values().map(|segment| segment.len()).sum();
        if self.mapped.len() >= MAX_SEGMENTS || mapped.saturating_add(size) > self.limit {
            return Err(PeerMemoryError::Fault(ShmFault::TooMuchMemory { limit: self.limit }));
        }
        if self.mapped.contains_key(&id) {
            return Err(PeerMemoryError::Fault(ShmFault::Segment { id }));
        }
        let segment = PeerSegment::map(descriptor, size, self.mode)?;
        self.mapped.insert(id, Arc::new(segment));
        Ok(())
    }

    pub(super) fn retire(&mut self, id: u32) -> Result<(), ShmFault> {
        self.mapped.remove(&id).map(drop).ok_or(ShmFault::Segment { id })
    }

    /// The memory of a payload. In sealed mode it is the payload's alone and is used no more after it.
    pub(super) fn find(&mut self, id: u32, offset: u64, len: u32) -> Result<Spot, ShmFault> {
        let segment = match self.mode {
            ShmMode::Pooled => self.mapped.get(&id).cloned(),
            ShmMode::Sealed => self.mapped.remove(&id),
        };
        let segment = segment.ok_or(ShmFault::Segment { id })?;
        let (size, len64) = (segment.len(), u64::from(len));
        if offset.checked_add(len64).is_none_or(|end| end > size) {
            return Err(ShmFault::OutOfRange { offset, len: len64, size });
        }
        // Both are within a segment, which is mapped.
        let [offset, len] = [offset, len64].map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(Spot { segment, offset, len })
    }
}
