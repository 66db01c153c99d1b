//! Where payloads lie that this side sends: in the arena, copied there if need be, or sealed in memory of their own.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use avp_wire::Bytes;
use tokio::task::spawn_blocking;

use super::arena::NoBlock;
use super::lending::{Ended, Lending, copy_into};
use super::memory::sealed_copy;
use super::options::ShmMode;
use super::wire::Record;
use crate::error::{IoFault, LimitExceeded, PeerFault, TransportError};
use crate::link::Result;
use crate::sender::Standing;

/// Copies up to this size take less time than another thread takes to begin.
const SHORT_COPY: usize = 1 << 20;

/// Finds memory for payloads, and lends it to the peer.
pub(super) struct Placing {
    pub(super) lending: Arc<Lending>,
    mode: ShmMode,
    /// Next id of a segment that serves one payload.
    next_sealed: u32,
}

/// Where a payload is, as the peer finds it.
#[derive(Default)]
pub(super) struct Placed {
    /// Records that come before the frame, whether it is sent or not.
    pub(super) before: Vec<(Record, Option<OwnedFd>)>,
    /// The memory of a payload in sealed mode, which is passed with it alone.
    pub(super) own: Option<(Record, OwnedFd)>,
    pub(super) segment: u32,
    pub(super) offset: u64,
}

impl Placing {
    pub(super) fn new(lending: Arc<Lending>, mode: ShmMode) -> Self {
        Self { lending, mode, next_sealed: 0 }
    }

    /// Lends the memory of a payload, which is copied into some if it lies elsewhere; gives the token of the loan. Waits
    /// until the peer has taken enough of what came before.
    pub(super) async fn lend(
        &mut self,
        payload: &Bytes,
        standing: &mut Standing,
    ) -> Result<(Placed, Option<u64>)> {
        if !self.room(payload.len(), standing).await? {
            // The peer drops it unseen, so it need not be anywhere.
            return Ok((Placed::default(), None));
        }
        let (placed, kept) = match self.mode {
            ShmMode::Pooled => self.in_arena(payload, standing).await?,
            ShmMode::Sealed => (self.seal(payload, standing).await?, Bytes::new()),
        };
        Ok((placed, Some(self.lending.lend(to_u64(payload.len()), kept))))
    }

    /// Waits until the peer has taken enough of what came before; `false` where it drops what comes.
    async fn room(&self, len: usize, standing: &mut Standing) -> Result<bool> {
        loop {
            self.collect(standing)?;
            match self.lending.may_send(to_u64(len)) {
                Some(true) => return Ok(true),
                None => return Ok(false),
                Some(false) => {}
            }
            if standing.patience.wait(self.lending.news()).await.is_none() {
                return Err(standing.too_slow(len, len));
            }
        }
    }

    /// Takes in what the peer has given back.
    fn collect(&self, standing: &mut Standing) -> Result<()> {
        self.lending.collect().map_err(|ended| {
            let peer = standing.peer.clone();
            match ended {
                Ended::Gone => {
                    standing.failed(IoFault::Broken { peer, source: io::ErrorKind::BrokenPipe.into() })
                }
                Ended::Fault(fault) => standing.failed(PeerFault::SharedMemory { peer, fault }),
            }
        })
    }

    /// Finds the payload in the arena, or copies it there; gives what keeps the memory from being used again too.
    async fn in_arena(&self, payload: &Bytes, standing: &mut Standing) -> Result<(Placed, Bytes)> {
        let arena = &self.lending.arena;
        let (id, offset, payload) = match arena.locate(payload) {
            Some((id, offset)) => (id, offset, payload.clone()),
            None => {
                let copy = self.copy(payload, standing).await?;
                // It was just made there, and is alive.
                let (id, offset) = arena.locate(&copy).ok_or_else(|| standing.closed())?;
                (id, offset, copy)
            }
        };
        let news = arena.news(id).map_err(no_memory)?;
        let retired = news.retired.into_iter().map(|id| (Record::Retire { id }, None));
        let segment = news.segment.map(|(fd, size)| (Record::Segment { id, size }, Some(fd)));
        let before = retired.chain(segment).collect();
        Ok((Placed { before, own: None, segment: id, offset: to_u64(offset) }, payload))
    }

    /// A copy in the arena; waits for room in it.
    async fn copy(&self, payload: &Bytes, standing: &mut Standing) -> Result<Bytes> {
        loop {
            let (arena, from) = (Arc::clone(&self.lending.arena), payload.clone());
            let copying = move || arena.take(from.len()).map(|block| copy_into(block, &from));
            match off_thread(payload.len(), copying).await.map_err(no_memory)? {
                Ok(copy) => return Ok(copy),
                Err(NoBlock::Full) => self.wait_for_memory(payload.len(), standing).await?,
                Err(NoBlock::TooLarge) => return Err(self.exhausted(payload.len(), standing)),
                Err(NoBlock::Closed) => return Err(standing.closed()),
                Err(NoBlock::System(source)) => return Err(no_memory(source)),
            }
        }
    }

    /// A copy in memory that is the payload's alone and never changes again.
    async fn seal(&mut self, payload: &Bytes, standing: &mut Standing) -> Result<Placed> {
        let len = to_u64(payload.len());
        while self.lending.held().saturating_add(len) > self.lending.budget {
            if len > self.lending.budget {
                return Err(self.exhausted(payload.len(), standing));
            }
            self.wait_for_memory(payload.len(), standing).await?;
        }
        let from = payload.clone();
        let sealed = off_thread(payload.len(), move || sealed_copy(&from)).await.and_then(|sealed| sealed);
        let (fd, size) = sealed.map_err(no_memory)?;
        let id = self.next_sealed;
        self.next_sealed = self.next_sealed.wrapping_add(1);
        let own = Some((Record::Segment { id, size }, fd));
        Ok(Placed { before: Vec::new(), own, segment: id, offset: 0 })
    }

    /// Waits until the peer, or someone in this process, has given something back.
    async fn wait_for_memory(&self, needed: usize, standing: &mut Standing) -> Result<()> {
        let returned = async {
            tokio::select! {
                () = self.lending.news() => {}
                () = self.lending.arena.freed() => {}
            }
        };
        if standing.patience.wait(returned).await.is_none() {
            return Err(self.exhausted(needed, standing));
        }
        self.collect(standing)
    }

    /// Nothing of the frame has gone, so the connection is as it was.
    fn exhausted(&self, needed: usize, standing: &Standing) -> TransportError {
        let (held, budget) = (self.lending.held(), self.lending.budget);
        let (peer, needed) = (standing.peer.clone(), to_u64(needed));
        LimitExceeded::SharedMemory { peer, needed, held, budget }.into()
    }
}

fn no_memory(source: io::Error) -> TransportError {
    IoFault::SharedMemory { source }.into()
}

/// Runs what takes as long as a copy of `len` bytes; long ones on a blocking thread.
async fn off_thread<T: Send + 'static>(
    len: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    if len <= SHORT_COPY { Ok(work()) } else { spawn_blocking(work).await.map_err(io::Error::other) }
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
