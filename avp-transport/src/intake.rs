//! What is asked of every incoming frame, whatever carried it: sizes, budgets, checks.

use std::sync::Arc;
use std::time::Duration;

use avp_wire::ext::FrameKind;
use avp_wire::{DecodeError, Fault, Flags, Frame, FrameHead, Header, Limits};
use bytes::Bytes;
use tokio::task::coop::consume_budget;
use tokio::time::sleep;

use crate::bodies::Room;
use crate::budget::{Account, MemoryBudget, MemoryClaim};
use crate::error::{LimitExceeded, PeerFault, TransportError};
use crate::link::Result;
use crate::options::Options;
use crate::telemetry::{Direction, Meter};
use crate::work::{Check, is_long_check};

/// Tiny frames in a row after which a receiver pauses, so that a flood costs little of the processor until its budget is
/// spent. Several times as many a second as peers may sustain still come through.
const TINY_IN_A_ROW: u32 = 64;
const PAUSE: Duration = Duration::from_millis(1);

/// A payload that is there, and carries its claim on memory.
pub(crate) struct Arrived {
    pub(crate) payload: Bytes,
    /// Its checksum, where it was summed as it arrived.
    pub(crate) checksum: Option<u32>,
}

impl From<Bytes> for Arrived {
    fn from(payload: Bytes) -> Self {
        Self { payload, checksum: None }
    }
}

/// How far the check of a payload is.
pub(crate) enum Checking {
    Done(Result<Frame>),
    Running(FrameHead, Check),
}

/// The rules for frames of one peer, with what it has used up so far.
#[derive(Debug)]
pub(crate) struct Intake {
    pub(crate) peer: String,
    pub(crate) limits: Limits,
    pub(crate) meter: Meter,
    account: Account,
    /// What a body that carries the frames takes of its listener's memory.
    room: Option<Arc<Room>>,
    /// Bytes that may still come before the peer is known.
    restricted: Option<u64>,
    tiny: u64,
    tiny_in_a_row: u32,
}

impl Intake {
    pub(crate) fn new(peer: String, options: &Options, meter: Meter) -> Self {
        Self::sharing(peer, options, Account::new(options), meter)
    }

    /// Shares a memory budget with others of the same connection.
    pub(crate) fn within(memory: MemoryBudget, peer: String, options: &Options, meter: Meter) -> Self {
        Self::sharing(peer, options, Account::within(memory, options), meter)
    }

    /// For one of several streams of a connection, which draw on one account.
    pub(crate) fn sharing(peer: String, options: &Options, account: Account, meter: Meter) -> Self {
        let (limits, tiny) = (options.limits.clone(), options.budgets.tiny_payload);
        Self { peer, limits, meter, account, room: None, restricted: None, tiny, tiny_in_a_row: 0 }
    }

    /// Charges payloads that are unpacked to the body that brings them.
    pub(crate) fn charging(self, room: Arc<Room>) -> Self {
        Self { room: Some(room), ..self }
    }

    pub(crate) fn restrict(&mut self, bytes: u64) {
        self.restricted = Some(bytes);
    }

    pub(crate) fn is_restricted(&self) -> bool {
        self.restricted.is_some()
    }

    pub(crate) fn unrestrict(&mut self) {
        self.restricted = None;
    }

    /// Checks the first bytes of a header from the first one on, so that a peer of another protocol that waits for an
    /// answer is found out.
    pub(crate) fn opening(&self, bytes: &[u8]) -> Result<()> {
        let is_avp = avp_wire::MAGIC.starts_with(bytes.get(..avp_wire::MAGIC.len()).unwrap_or(bytes));
        if is_avp { Ok(()) } else { Err(self.not_avp(bytes)) }
    }

    /// Checks the 12 bytes, before anything is read or kept on their word.
    pub(crate) fn header(&mut self, bytes: &[u8]) -> Result<Header> {
        let header = Header::decode(bytes, &self.limits).map_err(|error| self.head_error(bytes, error))?;
        if let Some(left) = self.restricted {
            let got = header.frame_len();
            let limit = u64::from(self.limits.max_handshake_len);
            let Some(rest) = left.checked_sub(got) else {
                return Err(
                    LimitExceeded::HandshakeBytes { got: limit.saturating_sub(left) + got, limit }.into()
                );
            };
            self.restricted = Some(rest);
        }
        let payload = u64::from(header.payload_len_on_wire());
        self.tiny_in_a_row = if payload < self.tiny { self.tiny_in_a_row + 1 } else { 0 };
        self.account.conduct().frame(payload)?;
        Ok(header)
    }

    /// Lets other tasks have their turn before a frame that is here already: it costs no wait, so a flood would leave them
    /// none. Dropping the future loses nothing.
    pub(crate) async fn give_way(&mut self) {
        if self.tiny_in_a_row >= TINY_IN_A_ROW {
            self.tiny_in_a_row = 0;
            sleep(PAUSE).await;
        } else {
            consume_budget().await;
        }
    }

    /// Decodes the metadata of a header that passed.
    pub(crate) fn head(&self, header: Header, metadata: &[u8]) -> Result<FrameHead> {
        FrameHead::from_parts(header, metadata, &self.limits)
            .map_err(|error| self.head_error(metadata, error))
    }

    fn head_error(&self, bytes: &[u8], source: DecodeError) -> TransportError {
        let peer = self.peer.clone();
        match source {
            DecodeError::BadMagic(_) => self.not_avp(bytes),
            source if source.fault() == Fault::Limit => LimitExceeded::Frame { peer, source }.into(),
            source => PeerFault::MalformedHead { peer, source }.into(),
        }
    }

    fn not_avp(&self, bytes: &[u8]) -> TransportError {
        let first = bytes.iter().copied().take(Header::SIZE).collect();
        PeerFault::NotAvp { peer: self.peer.clone(), first }.into()
    }

    /// Claims memory for the frame; waits for earlier frames to be dropped.
    pub(crate) async fn claim(&self, bytes: u64) -> Result<MemoryClaim> {
        let claim = self.account.memory.claim(bytes, self.limits.frame_timeout);
        Ok(self.meter.watch(Direction::Received, claim).await?)
    }

    /// Checks a payload and makes the frame: at once, or on a blocking thread where that may take long. An error here
    /// costs this frame only, unless the peer has sent too many of the kind.
    pub(crate) fn check(&mut self, head: FrameHead, Arrived { payload, checksum }: Arrived) -> Checking {
        if checksum.is_some() || !is_long_check(&head, &payload, &self.limits) {
            let (kind, bytes) = (head.kind(), head.header.frame_len());
            let checked = match checksum {
                Some(checksum) => head.into_summed(payload, checksum, &self.limits),
                None => head.into_frame(payload, &self.limits),
            };
            return Checking::Done(self.judge(checked, kind, bytes, false));
        }
        let mut limits = self.limits.clone();
        if head.header.flags.contains(Flags::COMPRESSED) {
            if let Some(room) = &self.room
                // What is wrong with the payload comes out below.
                && let Ok(unpacked) = head.unpacked_len(&payload, &limits)
                && let Err(full) = room.hold_more(unpacked)
            {
                return Checking::Done(Err(full.into()));
            }
            let most = match self.restricted {
                Some(_) => u64::from(self.limits.max_handshake_len),
                None => self.limits.memory_budget,
            };
            limits.memory_budget = self.account.memory.free().min(most);
        }
        Checking::Running(head.clone(), Check::start(head, payload, limits))
    }

    /// Waits for the rest of a check. Dropping the future loses nothing.
    pub(crate) async fn checked(&mut self, head: &FrameHead, check: &mut Check) -> Result<Frame> {
        let checked = check.outcome(&self.peer).await?;
        let compressed = head.header.flags.contains(Flags::COMPRESSED);
        self.judge(checked, head.kind(), head.header.frame_len(), compressed)
    }

    /// `bytes` is what the frame has on the wire.
    fn judge(
        &mut self,
        checked: Result<Frame, DecodeError>,
        kind: Option<FrameKind>,
        bytes: u64,
        compressed: bool,
    ) -> Result<Frame> {
        match checked {
            Ok(mut frame) if compressed => {
                let unpacked = u64::try_from(frame.payload.len()).unwrap_or(u64::MAX);
                frame.payload = self.account.memory.claim_now(unpacked)?.attach(frame.payload);
                self.meter.received(bytes, &frame);
                Ok(frame)
            }
            Ok(frame) => {
                self.meter.received(bytes, &frame);
                Ok(frame)
            }
            Err(DecodeError::MemoryBudget { needed: got, .. }) if compressed && self.is_restricted() => {
                Err(LimitExceeded::HandshakeBytes { got, limit: u64::from(self.limits.max_handshake_len) }
                    .into())
            }
            Err(source) => {
                self.account.conduct().reject()?;
                let peer = self.peer.clone();
                Err(match source.fault() {
                    Fault::Limit => LimitExceeded::Unpacked { peer, kind, source }.into(),
                    _ => PeerFault::DamagedFrame { peer, kind, source }.into(),
                })
            }
        }
    }

    /// Counts a frame that the caller refused.
    pub(crate) fn refused(&mut self) -> Result<()> {
        Ok(self.account.conduct().reject()?)
    }
}
