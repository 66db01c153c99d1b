//! Frames into a connection over shared memory: small ones through the socket, large payloads by reference.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use avp_wire::{Bytes, EncodedFrame};
use bytes::{Buf, BytesMut};
use rustix::net::Shutdown;
use tokio::task::spawn_blocking;

use super::arena::NoBlock;
use super::lending::{Ended, Lending, copy_into};
use super::link;
use super::memory::sealed_copy;
use super::options::ShmMode;
use super::socket::Socket;
use super::wire::Record;
use crate::error::{Deadline, IoFault, LimitExceeded, PeerFault, TransportError, UsageError};
use crate::link::{BoxFuture, FrameSender, Result};
use crate::options::Options;
use crate::patience::Patience;
use crate::telemetry::{Direction, Meter};

/// Fed frames go out when so many bytes are there.
const GATHER: usize = 128 << 10;
/// Copies up to this size take less time than another thread takes to begin.
const SHORT_COPY: usize = 1 << 20;

pub(super) struct ShmSender {
    socket: Arc<Socket>,
    lending: Arc<Lending>,
    mode: ShmMode,
    peer: String,
    meter: Meter,
    patience: Patience,
    /// What is still to be written, and the descriptors that go beside its bytes, by offset.
    out: BytesMut,
    descriptors: VecDeque<(usize, OwnedFd)>,
    /// The frame at the end of `out`, until it is written or given up.
    last: Option<Last>,
    /// Next id of a segment that serves one payload.
    next_sealed: u32,
    state: State,
}

/// A frame that a dropped future takes with it, if none of its bytes has gone.
#[derive(Debug)]
struct Last {
    start: usize,
    token: Option<u64>,
    /// Descriptors that are its alone.
    descriptors: usize,
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Finished,
    Failed,
}

/// Where a payload is, as the peer finds it.
struct Place {
    /// Records that come before the frame, whether it is sent or not.
    before: Vec<(Record, Option<OwnedFd>)>,
    /// The memory of a payload in sealed mode, which is passed with it alone.
    own: Option<(Record, OwnedFd)>,
    segment: u32,
    offset: u64,
    /// What keeps the memory from being used again.
    payload: Bytes,
}

impl std::fmt::Debug for ShmSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShmSender")
            .field("peer", &self.peer)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl ShmSender {
    pub(super) fn new(
        socket: Arc<Socket>,
        lending: Arc<Lending>,
        mode: ShmMode,
        peer: String,
        options: &Options,
        meter: Meter,
    ) -> Self {
        let patience = Patience::new(&options.limits, meter.clone(), Direction::Sent);
        Self {
            socket,
            lending,
            mode,
            peer,
            meter,
            patience,
            out: BytesMut::new(),
            descriptors: VecDeque::new(),
            last: None,
            next_sealed: 0,
            state: State::Open,
        }
    }

    /// Completes what an earlier, dropped future began, and forgets a frame of which nothing has gone.
    async fn settle(&mut self) -> Result<()> {
        if self.state != State::Open {
            return Err(UsageError::Closed { peer: self.peer.clone() }.into());
        }
        match self.last.take() {
            Some(last) if !last.begun => {
                self.out.truncate(last.start);
                self.descriptors
                    .truncate(self.descriptors.len() - last.descriptors.min(self.descriptors.len()));
                if let Some(token) = last.token {
                    self.lending.cancel(token);
                }
                Ok(())
            }
            Some(last) => {
                self.last = Some(last);
                self.write_out().await
            }
            None => Ok(()),
        }
    }

    async fn put(&mut self, frame: EncodedFrame) -> Result<()> {
        self.settle().await?;
        self.patience.reset();
        if frame.payload.len() <= self.lending.inline {
            self.begin_frame(None, 0);
            self.out.extend_from_slice(&frame.head);
            self.out.extend_from_slice(&frame.payload);
        } else {
            self.refer(frame).await?;
        }
        self.write_out().await
    }

    async fn gather(&mut self, frame: EncodedFrame) -> Result<()> {
        if frame.payload.len() > self.lending.inline {
            return self.put(frame).await;
        }
        self.settle().await?;
        if self.out.len() >= GATHER {
            self.patience.reset();
            self.write_out().await?;
        }
        self.out.extend_from_slice(&frame.head);
        self.out.extend_from_slice(&frame.payload);
        Ok(())
    }

    fn begin_frame(&mut self, token: Option<u64>, descriptors: usize) {
        self.last = Some(Last { start: self.out.len(), token, descriptors, begun: false });
    }

    /// Queues a frame whose payload lies in memory.
    async fn refer(&mut self, frame: EncodedFrame) -> Result<()> {
        let len = to_u64(frame.payload.len());
        let (place, token) = match self.room(len).await? {
            true => {
                let place = self.place(&frame.payload).await?;
                let token = self.lending.lend(len, place.payload.clone());
                (place, Some(token))
            }
            // The peer drops it unseen, so it need not be anywhere.
            false => (Place::nowhere(), None),
        };
        for (record, descriptor) in place.before {
            self.record(record, descriptor);
        }
        self.begin_frame(token, usize::from(place.own.is_some()));
        if let Some((record, descriptor)) = place.own {
            self.record(record, Some(descriptor));
        }
        let (segment, offset, token) = (place.segment, place.offset, token.unwrap_or_default());
        self.record(Record::Payload { segment, offset, token }, None);
        self.out.extend_from_slice(&frame.head);
        Ok(())
    }

    fn record(&mut self, record: Record, descriptor: Option<OwnedFd>) {
        if let Some(descriptor) = descriptor {
            self.descriptors.push_back((self.out.len(), descriptor));
        }
        self.out.extend_from_slice(&record.encode());
    }

    /// Waits until the peer has taken enough of what came before; `false` where it drops what comes.
    async fn room(&mut self, len: u64) -> Result<bool> {
        loop {
            self.collect()?;
            match self.lending.may_send(len) {
                Some(true) => return Ok(true),
                None => return Ok(false),
                Some(false) => {}
            }
            if self.patience.wait(self.lending.news()).await.is_none() {
                return Err(self.too_slow(len));
            }
        }
    }

    fn collect(&mut self) -> Result<()> {
        self.lending.collect().map_err(|ended| {
            self.state = State::Failed;
            let peer = self.peer.clone();
            match ended {
                Ended::Gone => IoFault::Broken { peer, source: io::ErrorKind::BrokenPipe.into() }.into(),
                Ended::Fault(fault) => PeerFault::SharedMemory { peer, fault }.into(),
            }
        })
    }

    /// Finds the payload's memory, or copies it into some.
    async fn place(&mut self, payload: &Bytes) -> Result<Place> {
        if self.mode == ShmMode::Sealed {
            return self.seal(payload).await;
        }
        let (id, offset, payload) = match self.lending.arena.locate(payload) {
            Some((id, offset)) => (id, offset, payload.clone()),
            None => {
                let copy = self.copy(payload).await?;
                // It was just made there, and is alive.
                let (id, offset) = self.lending.arena.locate(&copy).ok_or_else(|| self.gone())?;
                (id, offset, copy)
            }
        };
        let news = self.lending.arena.news(id).map_err(|source| self.no_memory(source))?;
        let retired = news.retired.into_iter().map(|id| (Record::Retire { id }, None));
        let segment = news.segment.map(|(fd, size)| (Record::Segment { id, size }, Some(fd)));
        let before = retired.chain(segment).collect();
        Ok(Place { before, own: None, segment: id, offset: to_u64(offset), payload })
    }

    /// A copy in the arena; waits for room in it.
    async fn copy(&mut self, payload: &Bytes) -> Result<Bytes> {
        loop {
            let (arena, from) = (Arc::clone(&self.lending.arena), payload.clone());
            let copying = move || arena.take(from.len()).map(|block| copy_into(block, &from));
            let copied = off_thread(payload.len(), copying).await.map_err(|source| self.no_memory(source))?;
            match copied {
                Ok(copy) => return Ok(copy),
                Err(NoBlock::Full) => self.wait_for_memory(payload.len()).await?,
                Err(NoBlock::TooLarge) => return Err(self.exhausted(payload.len())),
                Err(NoBlock::Closed) => return Err(self.gone()),
                Err(NoBlock::System(source)) => return Err(self.no_memory(source)),
            }
        }
    }

    async fn seal(&mut self, payload: &Bytes) -> Result<Place> {
        let len = to_u64(payload.len());
        while self.lending.held().saturating_add(len) > self.lending.budget {
            if len > self.lending.budget {
                return Err(self.exhausted(payload.len()));
            }
            self.wait_for_memory(payload.len()).await?;
        }
        let from = payload.clone();
        let sealed = off_thread(payload.len(), move || sealed_copy(&from)).await.and_then(|sealed| sealed);
        let (fd, size) = sealed.map_err(|source| self.no_memory(source))?;
        let id = self.next_sealed;
        self.next_sealed = self.next_sealed.wrapping_add(1);
        let own = Some((Record::Segment { id, size }, fd));
        Ok(Place { before: Vec::new(), own, segment: id, offset: 0, payload: Bytes::new() })
    }

    /// Waits until the peer, or someone in this process, has given something back.
    async fn wait_for_memory(&mut self, needed: usize) -> Result<()> {
        let Self { lending, patience, .. } = self;
        let returned = async {
            tokio::select! {
                () = lending.news() => {}
                () = lending.arena.freed() => {}
            }
        };
        if patience.wait(returned).await.is_none() {
            return Err(self.exhausted(needed));
        }
        self.collect()
    }

    /// Nothing of the frame has gone, so the connection is as it was.
    fn exhausted(&self, needed: usize) -> TransportError {
        let (held, budget) = (self.lending.held(), self.lending.budget);
        LimitExceeded::SharedMemory { peer: self.peer.clone(), needed: to_u64(needed), held, budget }.into()
    }

    fn no_memory(&self, source: io::Error) -> TransportError {
        IoFault::SharedMemory { source }.into()
    }

    fn gone(&self) -> TransportError {
        UsageError::Closed { peer: self.peer.clone() }.into()
    }

    async fn write_out(&mut self) -> Result<()> {
        let total = self.out.len();
        while !self.out.is_empty() {
            let Self { socket, out, descriptors, patience, .. } = self;
            // A descriptor goes beside the first byte of its record, and a write takes one.
            let beside = descriptors.front().filter(|(at, _)| *at == 0).map(|(_, fd)| fd);
            let next = descriptors.iter().map(|(at, _)| *at).find(|&at| at > 0).unwrap_or(out.len());
            let bytes = out.get(..next.min(out.len())).unwrap_or_default();
            match patience.wait(link::send(socket, bytes, beside)).await {
                Some(Ok(sent @ 1..)) => self.advance(sent),
                Some(Ok(_)) => return Err(self.broken(io::ErrorKind::WriteZero.into())),
                Some(Err(source)) if source.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(source)) => return Err(self.broken(source)),
                None => return Err(self.too_slow(to_u64(total))),
            }
        }
        self.last = None;
        Ok(())
    }

    fn advance(&mut self, sent: usize) {
        self.out.advance(sent);
        self.patience.moved(sent);
        if self.descriptors.front().is_some_and(|(at, _)| *at == 0) {
            self.descriptors.pop_front();
        }
        for (at, _) in &mut self.descriptors {
            *at = at.saturating_sub(sent);
        }
        if let Some(last) = &mut self.last {
            last.begun |= sent > last.start;
            last.start = last.start.saturating_sub(sent);
        }
    }

    fn too_slow(&mut self, total: u64) -> TransportError {
        self.state = State::Failed;
        LimitExceeded::Deadline {
            peer: self.peer.clone(),
            which: Deadline::Send,
            after: self.patience.waited(),
            got: total.saturating_sub(to_u64(self.out.len())).min(total),
            expected: total,
        }
        .into()
    }

    fn broken(&mut self, source: io::Error) -> TransportError {
        self.state = State::Failed;
        IoFault::Broken { peer: self.peer.clone(), source }.into()
    }

    async fn flush_all(&mut self) -> Result<()> {
        self.settle().await?;
        self.patience.reset();
        self.write_out().await
    }

    async fn finish_all(&mut self) -> Result<()> {
        if self.state == State::Finished {
            return Ok(());
        }
        self.flush_all().await?;
        match rustix::net::shutdown(&*self.socket, Shutdown::Write) {
            // The peer has gone already; it will take nothing more, which is what was asked for.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => {
                self.state = State::Finished;
                Ok(())
            }
            Err(source) => Err(self.broken(source.into())),
        }
    }
}

impl Place {
    fn nowhere() -> Self {
        Self { before: Vec::new(), own: None, segment: 0, offset: 0, payload: Bytes::new() }
    }
}

impl Drop for ShmSender {
    fn drop(&mut self) {
        // The peer's receiver ends, also where the other half of this connection lives on.
        let _ = rustix::net::shutdown(&*self.socket, Shutdown::Write);
        self.lending.end();
    }
}

impl FrameSender for ShmSender {
    fn send(&mut self, frame: EncodedFrame) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let bytes = frame.len();
            let sent = self.put(frame).await;
            self.meter.sent(bytes, sent)
        })
    }

    fn feed(&mut self, frame: EncodedFrame) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let bytes = frame.len();
            let fed = self.gather(frame).await;
            self.meter.sent(bytes, fed)
        })
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.flush_all())
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.finish_all())
    }
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
