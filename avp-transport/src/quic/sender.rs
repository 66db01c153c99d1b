//! The sending half of a QUIC stream. Payloads go to quinn as they are; only small frames are copied together.

use std::sync::Arc;

use avp_wire::EncodedFrame;
use bytes::{Buf, Bytes, BytesMut};
use quinn::{SendStream, WriteError};

use super::fault;
use super::link::{self, Link};
use crate::error::{Deadline, LimitExceeded, TransportError, UsageError};
use crate::link::{BoxFuture, FrameSender, Result};
use crate::patience::Patience;
use crate::telemetry::Direction;

/// Frames up to this size are copied together, or head and payload of one.
const SMALL_FRAME: usize = 16 << 10;
/// Gathered bytes go out when this many are there.
const GATHER: usize = 128 << 10;
/// What quinn is given at a time: it counts a piece against the send window until all of it is acknowledged.
const PIECE: usize = 256 << 10;

/// Frames onto a QUIC stream. Everything that quinn has not taken lives here and not in a future.
pub(super) struct QuicSender {
    link: Arc<Link>,
    stream: Option<SendStream>,
    is_first: bool,
    patience: Patience,
    /// Frames held back.
    gathered: BytesMut,
    /// Whole small frames, then head and payload of a large one.
    parts: [Bytes; 3],
    /// Whether a byte of the frame in `parts` has gone, so that it must be completed.
    begun: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The peer takes no more of a stream that it may choose not to take.
    Unwanted,
    Finished,
    Failed,
}

impl std::fmt::Debug for QuicSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicSender")
            .field("peer", &self.link.peer())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl QuicSender {
    /// Onto the connection's first stream, which may still have to come.
    pub(super) fn first(link: Arc<Link>) -> Self {
        Self::over(link, None, true)
    }

    /// Onto a further stream. A peer that stops reading it has dropped a transfer, which is no failure: what is sent on
    /// it then goes nowhere.
    pub(super) fn further(link: Arc<Link>, stream: SendStream) -> Self {
        Self::over(link, Some(stream), false)
    }

    fn over(link: Arc<Link>, stream: Option<SendStream>, is_first: bool) -> Self {
        let patience = Patience::new(&link.options().limits, link.meter().clone(), Direction::Sent);
        Self {
            link,
            stream,
            is_first,
            patience,
            gathered: BytesMut::new(),
            parts: Default::default(),
            begun: false,
            state: State::Open,
        }
    }

    fn remaining(&self) -> usize {
        self.gathered.len() + self.parts.iter().map(Bytes::len).sum::<usize>()
    }

    fn check_open(&self) -> Result<()> {
        match self.state {
            State::Open | State::Unwanted => Ok(()),
            State::Finished | State::Failed => {
                Err(UsageError::Closed { peer: self.link.peer().to_owned() }.into())
            }
        }
    }

    /// Completes what an earlier, dropped future began, and forgets a frame of which nothing has gone.
    async fn settle(&mut self) -> Result<()> {
        self.check_open()?;
        if self.begun {
            self.write_out().await
        } else {
            let [_, head, payload] = &mut self.parts;
            head.clear();
            payload.clear();
            Ok(())
        }
    }

    async fn put(&mut self, frame: EncodedFrame) -> Result<()> {
        self.settle().await?;
        let [_, head, payload] = &mut self.parts;
        if frame.head.len() + frame.payload.len() <= SMALL_FRAME {
            // One piece for quinn to keep track of instead of two.
            *head = [&frame.head[..], &frame.payload[..]].concat().into();
        } else {
            *head = frame.head;
            *payload = frame.payload;
        }
        self.patience.reset();
        self.write_out().await
    }

    async fn gather(&mut self, frame: EncodedFrame) -> Result<()> {
        if frame.head.len() + frame.payload.len() > SMALL_FRAME {
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

    /// Writes `gathered` and `parts`.
    async fn write_out(&mut self) -> Result<()> {
        let total = self.remaining();
        while self.remaining() > 0 {
            if self.state == State::Unwanted {
                self.forget();
                return Ok(());
            }
            let [gathered, head, payload] = &mut self.parts;
            if gathered.is_empty() && !self.begun {
                *gathered = self.gathered.split().freeze();
            }
            let mut pieces = [gathered.clone(), head.clone(), payload.slice(..payload.len().min(PIECE))];
            let Self { link, stream, patience, .. } = self;
            let written = patience.wait(async {
                let stream = match stream {
                    Some(stream) => stream,
                    none => none.insert(link.first_send().await?),
                };
                stream.write_chunks(&mut pieces).await
            });
            match written.await {
                Some(Ok(written)) => self.advance(written.bytes),
                Some(Err(WriteError::Stopped(_))) if !self.is_first => self.state = State::Unwanted,
                Some(Err(error)) => return Err(self.broken(&error)),
                None => return Err(self.too_slow(total)),
            }
        }
        self.begun = false;
        Ok(())
    }

    fn advance(&mut self, mut bytes: usize) {
        self.patience.moved(bytes);
        for (part, begins) in self.parts.iter_mut().zip([false, true, true]) {
            let gone = bytes.min(part.len());
            part.advance(gone);
            bytes -= gone;
            self.begun |= begins && gone > 0;
        }
    }

    fn forget(&mut self) {
        self.gathered.clear();
        self.parts = Default::default();
        self.begun = false;
    }

    fn too_slow(&mut self, total: usize) -> TransportError {
        self.state = State::Failed;
        let count = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let expected = count(total);
        LimitExceeded::Deadline {
            peer: self.link.peer().to_owned(),
            which: Deadline::Send,
            after: self.patience.waited(),
            got: expected.saturating_sub(count(self.remaining())),
            expected,
        }
        .into()
    }

    fn broken(&mut self, error: &WriteError) -> TransportError {
        self.state = State::Failed;
        TransportError::broken(self.link.peer().to_owned(), fault::writing(error))
    }

    async fn flush_all(&mut self) -> Result<()> {
        self.settle().await?;
        self.patience.reset();
        // Quinn sends on its own accord.
        self.write_out().await
    }

    async fn finish_all(&mut self) -> Result<()> {
        if self.state == State::Finished {
            return Ok(());
        }
        self.flush_all().await?;
        match &mut self.stream {
            Some(stream) => {
                // Fails where the peer has stopped the stream, so that nothing more will be taken anyway.
                let _ = stream.finish();
                if self.is_first {
                    self.link.finished(stream).await;
                }
            }
            None => self.link.forgo_first_send(),
        }
        self.state = State::Finished;
        Ok(())
    }
}

impl FrameSender for QuicSender {
    fn send(&mut self, frame: EncodedFrame) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let bytes = frame.len();
            let sent = self.put(frame).await;
            self.link.meter().sent(bytes, sent)
        })
    }

    fn feed(&mut self, frame: EncodedFrame) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let bytes = frame.len();
            let fed = self.gather(frame).await;
            self.link.meter().sent(bytes, fed)
        })
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.flush_all())
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.finish_all())
    }
}

impl Drop for QuicSender {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        if self.begun {
            link::abandon(stream);
        } else {
            // Whole frames that quinn has taken still arrive, as over TCP.
            self.link.finish(stream);
        }
    }
}
