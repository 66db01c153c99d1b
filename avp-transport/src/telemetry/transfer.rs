//! What one transfer counts.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use avp_wire::Frame;
use metrics::counter;
use tracing::{Span, debug, debug_span, field};

use super::{Direction, Meter, TRANSFERS, refusal};
use crate::error::TransportError;

/// How transfers end, the worst last.
const OUTCOMES: [&str; 3] = ["done", "rejected", "failed"];
const REJECTED: u8 = 1;
const FAILED: u8 = 2;

/// The span of a transfer and how it went. Counted when it is dropped.
#[derive(Debug)]
pub(crate) struct TransferMeter {
    meter: Meter,
    span: Span,
    has_kind: AtomicBool,
    bytes: AtomicU64,
    /// Index into `OUTCOMES`.
    outcome: AtomicU8,
}

impl TransferMeter {
    /// `id` may be the peer's words, so it is escaped.
    pub(crate) fn new(meter: &Meter, id: &str) -> Self {
        let span = debug_span!(
            parent: meter.span(), "transfer", ?id, kind = field::Empty, bytes = field::Empty, outcome = field::Empty
        );
        let (has_kind, bytes, outcome) = Default::default();
        Self { meter: meter.clone(), span, has_kind, bytes, outcome }
    }

    /// Notes a frame that is to be sent; to be called before it is encoded.
    pub(crate) fn sending(&self, frame: &Frame) -> Sending<'_> {
        self.note(frame);
        Sending { transfer: self, code: refusal(frame) }
    }

    /// Notes a frame that has come.
    pub(crate) fn received(&self, frame: &Frame) {
        self.note(frame);
        if refusal(frame).is_some() {
            self.ended(REJECTED);
        }
    }

    /// Notes an error, which ends the transfer unless it can go on.
    pub(crate) fn error(&self, error: &TransportError) {
        if !error.is_recoverable() {
            self.failed();
        }
    }

    /// The connection failed under it.
    pub(crate) fn failed(&self) {
        self.ended(FAILED);
    }

    fn ended(&self, outcome: u8) {
        self.outcome.fetch_max(outcome, Ordering::Relaxed);
    }

    fn note(&self, frame: &Frame) {
        self.bytes.fetch_add(u64::try_from(frame.payload.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if !self.span.is_disabled()
            && !self.has_kind.swap(true, Ordering::Relaxed)
            && let Ok(Some(kind)) = frame.kind()
        {
            self.span.record("kind", kind.as_str());
        }
    }
}

/// A frame on its way out.
pub(crate) struct Sending<'a> {
    transfer: &'a TransferMeter,
    code: Option<&'static str>,
}

impl Sending<'_> {
    /// Notes what came of it.
    pub(crate) fn done(self, outcome: &Result<(), TransportError>) {
        match (outcome, self.code) {
            (Ok(()), Some(code)) => {
                self.transfer.meter.reject(Direction::Sent, code);
                self.transfer.ended(REJECTED);
            }
            (Ok(()), None) => {}
            (Err(error), _) => self.transfer.error(error),
        }
    }
}

impl Drop for TransferMeter {
    fn drop(&mut self) {
        let at = usize::from(*self.outcome.get_mut());
        let outcome = OUTCOMES.get(at).copied().unwrap_or("failed");
        let transport = self.meter.transport();
        counter!(TRANSFERS, "transport" => transport, "outcome" => outcome).increment(1);
        self.span.record("bytes", *self.bytes.get_mut());
        self.span.record("outcome", outcome);
        debug!(parent: &self.span, "ended");
    }
}
