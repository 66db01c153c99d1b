//! The sending half of a transport that writes bytes: frames held back, what a dropped future has begun, and what ends it
//! all. Where the bytes go is its outbox's.

use std::fmt;
use std::future::{Future, ready};
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;

use avp_wire::EncodedFrame;
use bytes::BytesMut;

use crate::error::{Deadline, TransportError, UsageError};
use crate::link::{BoxFuture, FrameSender, Result};
use crate::options::Options;
use crate::patience::Patience;
use crate::telemetry::{Direction, Meter};

/// Gathered bytes go out when this many are there.
const GATHER: usize = 128 << 10;

/// What is to be written, and where to. It is kept here and not in a future, so a dropped future leaves the peer in step.
pub(crate) trait Outbox: Send {
    /// Whether a frame is so small that it may be held back.
    fn is_small(&self, frame: &EncodedFrame) -> bool;

    /// Small frames that are held back. They go before all else.
    fn gathered(&mut self) -> &mut BytesMut;

    /// Puts a frame to be written.
    fn put(
        &mut self,
        frame: EncodedFrame,
        standing: &mut Standing,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Puts a descriptor behind all that was put; `false` where there is no way for it.
    #[cfg(target_os = "linux")]
    fn pass(&mut self, _token: u64, _descriptor: OwnedFd) -> bool {
        false
    }

    /// Bytes still to be written.
    fn left(&self) -> usize;

    /// Whether a part of the frame that was put has gone, and not all of it.
    fn has_begun(&self) -> bool;

    /// Forgets a frame that was put and of which nothing has gone.
    fn forget(&mut self);

    /// Writes some of what is left; gives how many bytes.
    fn write(&mut self) -> impl Future<Output = io::Result<usize>> + Send;

    /// Passes on what was written, where something may still hold it.
    fn flush(&mut self) -> impl Future<Output = io::Result<()>> + Send {
        ready(Ok(()))
    }

    /// Tells the peer that nothing follows.
    fn end(&mut self) -> impl Future<Output = io::Result<()>> + Send;
}

/// How it stands with the peer: how long it may still take, and whether it gets anything more.
pub(crate) struct Standing {
    pub(crate) peer: String,
    pub(crate) patience: Patience,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Finished,
    Failed,
}

impl Standing {
    pub(crate) fn closed(&self) -> TransportError {
        UsageError::Closed { peer: self.peer.clone() }.into()
    }

    /// Ends the sending by an error.
    pub(crate) fn failed(&mut self, error: impl Into<TransportError>) -> TransportError {
        self.state = State::Failed;
        error.into()
    }

    /// Ends the sending because the peer has used up its time, with `left` bytes of `total` still to go.
    pub(crate) fn too_slow(&mut self, total: usize, left: usize) -> TransportError {
        let gone = total.saturating_sub(left);
        self.failed(self.patience.exhausted(&self.peer, Deadline::Send, gone, total))
    }

    fn broken(&mut self, source: io::Error) -> TransportError {
        self.failed(TransportError::broken(self.peer.clone(), source))
    }
}

/// Sends frames through an outbox.
pub(crate) struct Sender<O> {
    outbox: O,
    meter: Meter,
    standing: Standing,
    /// Whether something is being written, for which the peer has its time.
    writing: bool,
}

impl<O: Outbox> Sender<O> {
    pub(crate) fn over(outbox: O, peer: String, options: &Options, meter: Meter) -> Self {
        let patience = Patience::new(&options.limits, meter.clone(), Direction::Sent);
        Self { outbox, meter, standing: Standing { peer, patience, state: State::Open }, writing: false }
    }

    /// Completes what an earlier, dropped future began, and forgets a frame of which nothing has gone.
    async fn settle(&mut self) -> Result<()> {
        if self.standing.state != State::Open {
            return Err(self.standing.closed());
        }
        if self.outbox.has_begun() {
            self.write_out().await
        } else {
            self.outbox.forget();
            Ok(())
        }
    }

    async fn put(&mut self, frame: EncodedFrame) -> Result<()> {
        self.settle().await?;
        self.be_patient();
        self.outbox.put(frame, &mut self.standing).await?;
        let total = self.outbox.left();
        self.write_out().await?;
        self.pass_on(total).await
    }

    async fn gather(&mut self, frame: EncodedFrame) -> Result<()> {
        if !self.outbox.is_small(&frame) {
            return self.put(frame).await;
        }
        self.settle().await?;
        if self.outbox.gathered().len() >= GATHER {
            self.be_patient();
            self.write_out().await?;
        }
        let gathered = self.outbox.gathered();
        if gathered.is_empty() {
            // At once, since growing copies what is there.
            gathered.reserve(GATHER + frame.len());
        }
        gathered.extend_from_slice(&frame.head);
        gathered.extend_from_slice(&frame.payload);
        Ok(())
    }

    /// Gives the peer its time anew, unless it has not taken yet what a dropped future was writing.
    fn be_patient(&mut self) {
        if !self.writing {
            self.standing.patience.reset();
        }
    }

    /// Writes all that is left.
    async fn write_out(&mut self) -> Result<()> {
        self.writing = true;
        let Self { outbox, standing, .. } = self;
        let total = outbox.left();
        while outbox.left() > 0 {
            match standing.patience.wait(outbox.write()).await {
                Some(Ok(bytes @ 1..)) => standing.patience.moved(bytes),
                Some(Ok(_)) => return Err(standing.broken(io::ErrorKind::WriteZero.into())),
                Some(Err(source)) if source.kind() == io::ErrorKind::Interrupted => {}
                Some(Err(source)) => return Err(standing.broken(source)),
                None => return Err(standing.too_slow(total, outbox.left())),
            }
        }
        self.writing = false;
        Ok(())
    }

    /// Passes on what was written, `total` bytes.
    async fn pass_on(&mut self, total: usize) -> Result<()> {
        let Self { outbox, standing, .. } = self;
        match standing.patience.wait(outbox.flush()).await {
            Some(Ok(())) => Ok(()),
            Some(Err(source)) => Err(standing.broken(source)),
            None => Err(standing.too_slow(total, 0)),
        }
    }

    async fn flush_all(&mut self) -> Result<()> {
        self.settle().await?;
        self.be_patient();
        self.write_out().await?;
        self.pass_on(0).await
    }

    #[cfg(target_os = "linux")]
    async fn pass_descriptor(&mut self, token: u64, descriptor: OwnedFd) -> Result<bool> {
        self.settle().await?;
        self.be_patient();
        if !self.outbox.pass(token, descriptor) {
            return Ok(false);
        }
        self.write_out().await?;
        Ok(true)
    }

    async fn finish_all(&mut self) -> Result<()> {
        if self.standing.state == State::Finished {
            return Ok(());
        }
        self.flush_all().await?;
        let Self { outbox, standing, .. } = self;
        match standing.patience.wait(outbox.end()).await {
            Some(Ok(())) => {}
            // The peer has gone already; it will take nothing more, which is what was asked for.
            Some(Err(source)) if source.kind() == io::ErrorKind::NotConnected => {}
            Some(Err(source)) => return Err(standing.broken(source)),
            None => return Err(standing.too_slow(0, 0)),
        }
        standing.state = State::Finished;
        Ok(())
    }
}

impl<O: Outbox> FrameSender for Sender<O> {
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

    #[cfg(target_os = "linux")]
    fn pass(&mut self, token: u64, descriptor: OwnedFd) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.pass_descriptor(token, descriptor))
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.flush_all())
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.finish_all())
    }
}

impl<O> fmt::Debug for Sender<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("peer", &self.standing.peer)
            .field("state", &self.standing.state)
            .finish_non_exhaustive()
    }
}
