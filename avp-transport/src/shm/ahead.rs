//! What was read from the socket and not used yet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use super::link::Incoming;

/// Room for many small frames; more where a single one needs it.
const ROOM: usize = 128 << 10;
/// Descriptors that wait for their record: one read brings those of one record, and reads go on only within one.
const MOST_DESCRIPTORS: usize = 4;

/// A buffer that is read into at its end and used from its front.
pub(super) struct Ahead {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    pub(super) fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// One read, with room for at least `needed` bytes in all; 0 at the end. Descriptors beyond what may come are an
    /// `InvalidData` error.
    pub(super) async fn read(
        &mut self,
        incoming: &mut Incoming,
        needed: usize,
        descriptors: &mut VecDeque<OwnedFd>,
    ) -> io::Result<usize> {
        self.make_room(needed);
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let (count, truncated) = incoming.receive(room, descriptors).await?;
        self.end += count;
        let too_many = truncated || descriptors.len() > MOST_DESCRIPTORS;
        if too_many { Err(io::ErrorKind::InvalidData.into()) } else { Ok(count) }
    }

    fn make_room(&mut self, needed: usize) {
        let size = needed.max(ROOM);
        if self.buffer.len() > ROOM && size == ROOM && self.end == 0 {
            // A long frame has passed.
            self.buffer.truncate(ROOM);
            self.buffer.shrink_to_fit();
        }
        if self.start > 0 && self.start.saturating_add(size) > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
    }
}
