//! What one connection counts.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use avp_wire::{EncodedFrame, Frame};
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tokio::time::Instant;
use tracing::{Instrument, Span, debug, debug_span, field};

use super::{
    BYTES, CONNECTIONS, Carrier, Direction, FAULTS, FRAMES, HANDSHAKES, OPEN, STALL, STALL_SECONDS, STALLS,
    Side, count_reject, outcome_of, refusal,
};
use crate::connection::Peer;
use crate::error::{Deadline, LimitExceeded, TransportError};
use crate::http::HttpRefusal;
use crate::link::Result;

/// The counters and the span of a connection, or of requests over HTTP. Clones share them; what it says about an open
/// connection ends with the last.
#[derive(Clone)]
pub(crate) struct Meter(Arc<Inner>);

struct Inner {
    transport: &'static str,
    sent: Flow,
    received: Flow,
    span: Span,
    /// Connections that are open, for one of them.
    open: Option<Gauge>,
}

/// One direction.
struct Flow {
    bytes: Counter,
    frames: Counter,
    stalls: Counter,
    stall_seconds: Histogram,
}

impl Flow {
    fn new(transport: &'static str, direction: Direction) -> Self {
        let direction = direction.as_str();
        Self {
            bytes: counter!(BYTES, "transport" => transport, "direction" => direction),
            frames: counter!(FRAMES, "transport" => transport, "direction" => direction),
            stalls: counter!(STALLS, "transport" => transport, "direction" => direction),
            stall_seconds: histogram!(STALL_SECONDS, "transport" => transport, "direction" => direction),
        }
    }

    fn frame(&self, bytes: u64) {
        self.frames.increment(1);
        self.bytes.increment(bytes);
    }
}

impl Meter {
    /// Counts a connection that has come about, as open until the last clone is dropped.
    pub(crate) fn connection(carrier: impl Into<Carrier>, side: Side, peer: &Peer) -> Self {
        let (transport, side) = (carrier.into().as_str(), side.as_str());
        counter!(CONNECTIONS, "transport" => transport, "side" => side, "outcome" => "established")
            .increment(1);
        let open = gauge!(OPEN, "transport" => transport);
        open.increment(1.0);
        let span = debug_span!("connection", transport, side, %peer);
        debug!(parent: &span, "established");
        Self::new(transport, span, Some(open))
    }

    /// For frames that travel without a connection.
    pub(crate) fn requests(carrier: impl Into<Carrier>) -> Self {
        Self::new(carrier.into().as_str(), Span::none(), None)
    }

    fn new(transport: &'static str, span: Span, open: Option<Gauge>) -> Self {
        let (sent, received) =
            (Flow::new(transport, Direction::Sent), Flow::new(transport, Direction::Received));
        Self(Arc::new(Inner { transport, sent, received, span, open }))
    }

    pub(crate) fn transport(&self) -> &'static str {
        self.0.transport
    }

    pub(super) fn span(&self) -> &Span {
        &self.0.span
    }

    fn flow(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::Sent => &self.0.sent,
            Direction::Received => &self.0.received,
        }
    }

    /// Counts a frame of so many bytes that the transport has taken, or why it has not.
    pub(crate) fn sent<T>(&self, bytes: usize, outcome: Result<T>) -> Result<T> {
        if outcome.is_ok() {
            self.0.sent.frame(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
        self.faulted(outcome)
    }

    /// Counts a frame that has come whole and undamaged.
    pub(crate) fn received(&self, bytes: u64, frame: &Frame) {
        self.0.received.frame(bytes);
        if let Some(code) = refusal(frame) {
            self.reject(Direction::Received, code);
        }
    }

    /// Counts a frame that was sent, if it is a refusal.
    pub(crate) fn said(&self, frame: &Frame) {
        if let Some(code) = refusal(frame) {
            self.reject(Direction::Sent, code);
        }
    }

    /// Counts an answer that refuses a request.
    pub(crate) fn refused(&self, refusal: &HttpRefusal) {
        self.reject(Direction::Received, refusal.code_or_nearest().as_str());
    }

    /// Counts a frame that answers a request.
    pub(crate) fn answered(&self, frame: &EncodedFrame) {
        self.0.sent.frame(u64::try_from(frame.len()).unwrap_or(u64::MAX));
    }

    /// Counts a refusal.
    pub(crate) fn reject(&self, direction: Direction, code: &'static str) {
        self.0.span.in_scope(|| count_reject(self.0.transport, direction, code));
    }

    /// Counts an error that the peer is to blame for, as far as a transport can tell.
    pub(crate) fn faulted<T>(&self, outcome: Result<T>) -> Result<T> {
        let within_a_frame = |which: &Deadline| matches!(which, Deadline::Receive | Deadline::Send);
        match &outcome {
            Err(TransportError::Limit(LimitExceeded::Deadline { which, .. })) if !within_a_frame(which) => {}
            Err(error @ (TransportError::Peer(_) | TransportError::Limit(_))) => {
                let code = error.code().as_str();
                counter!(FAULTS, "transport" => self.0.transport, "code" => code).increment(1);
                let goes_on = error.is_recoverable();
                debug!(parent: &self.0.span, code, goes_on, "the peer is at fault");
            }
            _ => {}
        }
        outcome
    }

    /// Runs a handshake in a span of its own and counts how it ended.
    pub(crate) async fn handshake<T>(
        &self,
        side: Side,
        handshake: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let span =
            debug_span!(parent: &self.0.span, "handshake", outcome = field::Empty, code = field::Empty);
        let outcome = handshake.instrument(span.clone()).await;
        if let Err(error) = &outcome {
            span.record("code", error.code().as_str());
        }
        span.record("outcome", outcome_of(&outcome));
        self.negotiated(side, outcome_of(&outcome));
        span.in_scope(|| debug!("negotiated"));
        outcome
    }

    /// Counts a handshake.
    pub(crate) fn negotiated(&self, side: Side, outcome: &'static str) {
        let transport = self.0.transport;
        counter!(HANDSHAKES, "transport" => transport, "side" => side.as_str(), "outcome" => outcome)
            .increment(1);
    }

    /// Waits for `future`, and counts a stall if that took long. Where nothing is to be waited for no clock is read.
    pub(crate) async fn watch<T>(&self, direction: Direction, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        if let Poll::Ready(value) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
            return value;
        }
        let _watch = Watch { meter: self, direction, start: Instant::now() };
        future.await
    }

    /// Counts a wait, if it was long enough for a stall.
    pub(crate) fn waited(&self, direction: Direction, wait: Duration) {
        if wait < STALL {
            return;
        }
        let flow = self.flow(direction);
        flow.stalls.increment(1);
        flow.stall_seconds.record(wait.as_secs_f64());
        let (direction, seconds) = (direction.as_str(), wait.as_secs_f64());
        debug!(parent: &self.0.span, direction, seconds, "stalled");
    }
}

/// Counts a wait also where its future is dropped.
struct Watch<'a> {
    meter: &'a Meter,
    direction: Direction,
    start: Instant,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.meter.waited(self.direction, self.start.elapsed());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(open) = &self.open {
            open.decrement(1.0);
            debug!(parent: &self.span, "closed");
        }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("transport", &self.0.transport).finish_non_exhaustive()
    }
}
