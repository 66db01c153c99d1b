//! Frames onto a byte stream: vectored writes of head and payload, small frames gathered on request.

use std::io::{self, IoSlice};

use avp_wire::EncodedFrame;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::error::{Deadline, LimitExceeded, TransportError, UsageError};
use crate::link::{BoxFuture, FrameSender, Result};
use crate::options::Options;
use crate::patience::Patience;
use crate::telemetry::{Direction, Meter};

/// Frames up to this size are worth copying together when they are fed.
const GATHER_FRAME: usize = 16 << 10;
/// Gathered bytes go out when this many are there.
const GATHER: usize = 128 << 10;

/// The sending half over any byte stream. Everything not yet written lives here and not in a future, so a dropped
/// future leaves the stream in step.
pub(crate) struct StreamSender<W> {
    io: W,
    peer: String,
    meter: Meter,
    patience: Patience,
    gathered: BytesMut,
    head: Bytes,
    payload: Bytes,
    /// Whether a byte of `head` or `payload` has gone, so that the frame must be completed.
    begun: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Finished,
    Failed,
}

impl<W> std::fmt::Debug for StreamSender<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamSender")
            .field("peer", &self.peer)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<W: AsyncWrite + Unpin + Send> StreamSender<W> {
    pub(crate) fn new(io: W, peer: String, options: &Options, meter: Meter) -> Self {
        let patience = Patience::new(&options.limits, meter.clone(), Direction::Sent);
        Self {
            io,
            peer,
            meter,
            patience,
            gathered: BytesMut::new(),
            head: Bytes::new(),
            payload: Bytes::new(),
            begun: false,
            state: State::Open,
        }
    }

    fn remaining(&self) -> usize {
        self.gathered.len() + self.head.len() + self.payload.len()
    }

    fn check_open(&self) -> Result<()> {
        match self.state {
            State::Open => Ok(()),
            State::Finished | State::Failed => Err(UsageError::Closed { peer: self.peer.clone() }.into()),
        }
    }

    /// Completes what an earlier, dropped future began, and forgets a frame of which nothing has gone.
    async fn settle(&mut self) -> Result<()> {
        self.check_open()?;
        if self.begun {
            self.write_out().await
        } else {
            self.head.clear();
            self.payload.clear();
            Ok(())
        }
    }

    async fn put(&mut self, frame: EncodedFrame) -> Result<()> {
        self.settle().await?;
        self.head = frame.head;
        self.payload = frame.payload;
        let total = self.remaining();
        self.patience.reset();
        self.write_out().await?;
        // A stream such as TLS may have taken the last bytes without passing them on.
        self.flush_io(total).await
    }

    async fn gather(&mut self, frame: EncodedFrame) -> Result<()> {
        if frame.head.len() + frame.payload.len() > GATHER_FRAME {
            return self.put(frame).await;
        }
        self.settle().await?;
        if self.gathered.len() >= GATHER {
            self.patience.reset();
            self.write_out().await?;
        }
        self.gathered.extend_from_slice(&frame.head);
        self.gathered.extend_from_slice(&frame.payload);
        Ok(())
    }

    /// Writes `gathered`, `head` and `payload`, in this order.
    async fn write_out(&mut self) -> Result<()> {
        let total = self.remaining();
        while self.remaining() > 0 {
            let Self { io, gathered, head, payload, patience, .. } = self;
            let parts = [IoSlice::new(gathered), IoSlice::new(head), IoSlice::new(payload)];
            let written = match patience.wait(io.write_vectored(&parts)).await {
                Some(Ok(0)) => Err(io::Error::from(io::ErrorKind::WriteZero)),
                Some(result) => result,
                None => return Err(self.too_slow(total)),
            };
            match written {
                Ok(bytes) => self.advance(bytes),
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.broken(source)),
            }
        }
        self.begun = false;
        Ok(())
    }

    fn advance(&mut self, mut bytes: usize) {
        self.patience.moved(bytes);
        let gathered = bytes.min(self.gathered.len());
        self.gathered.advance(gathered);
        bytes -= gathered;
        if bytes > 0 {
            self.begun = true;
        }
        let head = bytes.min(self.head.len());
        self.head.advance(head);
        let payload = (bytes - head).min(self.payload.len());
        self.payload.advance(payload);
    }

    fn too_slow(&mut self, total: usize) -> TransportError {
        self.state = State::Failed;
        let expected = u64::try_from(total).unwrap_or(u64::MAX);
        let left = u64::try_from(self.remaining()).unwrap_or(u64::MAX);
        LimitExceeded::Deadline {
            peer: self.peer.clone(),
            which: Deadline::Send,
            after: self.patience.waited(),
            got: expected.saturating_sub(left),
            expected,
        }
        .into()
    }

    fn broken(&mut self, source: io::Error) -> TransportError {
        self.state = State::Failed;
        TransportError::broken(self.peer.clone(), source)
    }

    async fn flush_all(&mut self) -> Result<()> {
        self.settle().await?;
        self.patience.reset();
        self.write_out().await?;
        self.flush_io(0).await
    }

    async fn flush_io(&mut self, total: usize) -> Result<()> {
        let Self { io, patience, .. } = self;
        match patience.wait(io.flush()).await {
            Some(Ok(())) => Ok(()),
            Some(Err(source)) => Err(self.broken(source)),
            None => Err(self.too_slow(total)),
        }
    }

    async fn finish_all(&mut self) -> Result<()> {
        if self.state == State::Finished {
            return Ok(());
        }
        self.flush_all().await?;
        let Self { io, patience, .. } = self;
        match patience.wait(io.shutdown()).await {
            Some(Ok(())) => {
                self.state = State::Finished;
                Ok(())
            }
            // The peer has gone already; it will take nothing more, which is what was asked for.
            Some(Err(source)) if source.kind() == io::ErrorKind::NotConnected => {
                self.state = State::Finished;
                Ok(())
            }
            Some(Err(source)) => Err(self.broken(source)),
            None => Err(self.too_slow(0)),
        }
    }
}

impl<W: AsyncWrite + Unpin + Send> FrameSender for StreamSender<W> {
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
