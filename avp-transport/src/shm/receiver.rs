//! Frames out of a connection over shared memory. Heads are read from the socket and judged as on any transport; a
//! payload in memory is given as a view of it.

use std::sync::Arc;

use avp_wire::{BufferPool, Bytes, Flags, Frame, FrameHead, Header, PayloadBuffer};

use super::fault::ShmFault;
use super::link::Incoming;
use super::memory::PeerMemoryError;
use super::options::ShmMode;
use super::returns::{Borrowed, Returns};
use super::segments::{Segments, Spot};
use super::supply::{Supply, broken};
use super::wire::{MAX_INLINE, MAX_SEGMENTS, Record, Word};
use crate::error::{IoFault, PeerFault, TransportError, UsageError};
use crate::idle::IdleWait;
use crate::intake::{Checking, Intake};
use crate::link::{BoxFuture, FrameReceiver, Result};
use crate::options::Options;
use crate::patience::Patience;
use crate::telemetry::{Direction, Meter};
use crate::work::Check;

/// Records between two frames: every segment may be retired, and new ones passed.
const MAX_RECORDS: usize = 2 * MAX_SEGMENTS + 2;

/// Everything read lives here and not in a future, so a dropped future loses nothing.
pub(super) struct ShmReceiver {
    supply: Supply,
    intake: Intake,
    /// For payloads that come through the socket, and for copies.
    pool: BufferPool,
    mode: ShmMode,
    segments: Segments,
    returns: Arc<Returns>,
    idle: IdleWait,
    /// Records since the last frame.
    records: usize,
    stage: Stage,
}

// One per connection; boxing the head would cost an allocation per frame.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Stage {
    /// Before a head or a record.
    Between,
    /// The head is known, nothing of the payload is taken.
    Judging(FrameHead, Place),
    /// The payload is there and being checked.
    Checking(FrameHead, Check),
    /// So many bytes of a refused payload are still to come.
    Skipping(usize),
    /// The peer finished.
    Ended,
    /// Nothing more can be received.
    Failed,
}

/// Where the payload of a frame is; in memory with the token that it has.
#[derive(Debug)]
enum Place {
    Inline(usize),
    Memory(Spot, u64),
}

impl std::fmt::Debug for ShmReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShmReceiver").field("peer", &self.intake.peer).finish_non_exhaustive()
    }
}

impl ShmReceiver {
    pub(super) fn new(
        incoming: Incoming,
        returns: Arc<Returns>,
        mode: ShmMode,
        peer: String,
        options: &Options,
        meter: Meter,
    ) -> Self {
        let patience = Patience::new(&options.limits, meter.clone(), Direction::Received);
        Self {
            supply: Supply::new(incoming, patience),
            intake: Intake::new(peer, options, meter),
            pool: options.pool.clone(),
            mode,
            segments: Segments::new(mode, options.shm.peer_arena),
            returns,
            idle: IdleWait::new(&options.timeouts),
            records: 0,
            stage: Stage::Between,
        }
    }

    fn fail<T>(&mut self, error: impl Into<TransportError>) -> Result<T> {
        self.stage = Stage::Failed;
        Err(error.into())
    }

    fn fault<T>(&mut self, fault: ShmFault) -> Result<T> {
        let peer = self.intake.peer.clone();
        self.fail(PeerFault::SharedMemory { peer, fault })
    }

    /// Brings the stream to a head; `false` when the peer has finished.
    async fn await_head(&mut self) -> Result<bool> {
        loop {
            match self.stage {
                Stage::Judging(..) | Stage::Checking(..) => return Ok(true),
                Stage::Ended => return Ok(false),
                Stage::Failed => return Err(UsageError::Closed { peer: self.intake.peer.clone() }.into()),
                Stage::Skipping(_) => self.skip().await?,
                Stage::Between => {
                    if !self.begin().await? {
                        self.stage = Stage::Ended;
                        return Ok(false);
                    }
                    self.advance().await?;
                }
            }
        }
    }

    /// Waits for the first byte of a frame or record; `false` when the peer has finished.
    async fn begin(&mut self) -> Result<bool> {
        if self.records == 0 {
            self.supply.be_patient();
        }
        if !self.supply.bytes().is_empty() {
            self.intake.give_way().await;
            return Ok(true);
        }
        if self.supply.has_descriptors() {
            return self.fault(ShmFault::ExtraDescriptor);
        }
        match self.idle.sleep(&self.intake.peer, self.supply.read()).await? {
            Ok(bytes) => Ok(bytes > 0),
            Err(source) => self.fail(broken(&self.intake.peer, source)),
        }
    }

    /// Takes one record, or one head.
    async fn advance(&mut self) -> Result<()> {
        if self.supply.bytes().first() != Some(&Record::FIRST) {
            let header = self.header(0).await?;
            let len = to_usize(header.payload_len_on_wire());
            if len > MAX_INLINE {
                return self.fault(ShmFault::LongInline { len: u64::from(header.payload_len_on_wire()) });
            }
            return self.head(header, 0, Place::Inline(len)).await;
        }
        self.need(Record::SIZE, Record::SIZE).await?;
        let record = self.supply.bytes().first_chunk().map_or(Err(ShmFault::Malformed), Record::decode);
        match record {
            Ok(Record::Payload { segment, offset, token }) => {
                let header = self.header(Record::SIZE).await?;
                match self.segments.find(segment, offset, header.payload_len_on_wire()) {
                    Ok(spot) => self.head(header, Record::SIZE, Place::Memory(spot, token)).await,
                    Err(fault) => self.fault(fault),
                }
            }
            Ok(record) => self.note(record),
            Err(fault) => self.fault(fault),
        }
    }

    /// The header that stands `at` bytes into what was read.
    async fn header(&mut self, at: usize) -> Result<Header> {
        let mut have = 0;
        while have < Header::SIZE {
            have = (have + 1).max(self.supply.bytes().len().saturating_sub(at)).min(Header::SIZE);
            self.need(at + have, at + Header::SIZE).await?;
            // Told from the first byte on, so that a peer of another protocol that waits for an answer is found out.
            let bytes = self.supply.bytes().get(at..).unwrap_or_default();
            if !avp_wire::MAGIC.starts_with(bytes.get(..have.min(2)).unwrap_or_default()) {
                let first = bytes.iter().copied().take(Header::SIZE).collect();
                let peer = self.intake.peer.clone();
                return self.fail(PeerFault::NotAvp { peer, first });
            }
        }
        match self.intake.header(self.supply.bytes().get(at..).unwrap_or_default()) {
            Ok(header) => Ok(header),
            Err(error) => self.fail(error),
        }
    }

    /// The metadata of a header `at` bytes into what was read. Header and metadata are copies: the peer cannot reach them.
    async fn head(&mut self, header: Header, at: usize, place: Place) -> Result<()> {
        // Metadata cannot go beyond its frame; lenient limits let a header say so.
        let metadata_len = to_usize(header.metadata_length.min(header.payload_length));
        let start = at + Header::SIZE;
        let end = start.saturating_add(metadata_len);
        self.need(end, end).await?;
        match self.intake.head(header, self.supply.bytes().get(start..end).unwrap_or_default()) {
            Ok(head) => {
                self.supply.consume(end);
                self.records = 0;
                self.stage = Stage::Judging(head, place);
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }

    /// Reads until `needed` bytes of `expected` are there.
    async fn need(&mut self, needed: usize, expected: usize) -> Result<()> {
        let read = self.supply.need(&self.intake.peer, needed, expected).await;
        read.or_else(|error| self.fail(error))
    }

    /// Follows a record that stands alone.
    fn note(&mut self, record: Record) -> Result<()> {
        self.supply.consume(Record::SIZE);
        self.records += 1;
        if self.records > MAX_RECORDS {
            return self.fault(ShmFault::Churn);
        }
        match record {
            Record::Segment { id, size } => self.map(id, size),
            Record::Retire { id } => self.segments.retire(id).or_else(|fault| self.fault(fault)),
            Record::Payload { .. } => Ok(()),
        }
    }

    fn map(&mut self, id: u32, size: u64) -> Result<()> {
        let Some(descriptor) = self.supply.descriptor() else {
            return self.fault(ShmFault::NoDescriptor);
        };
        match self.segments.map(id, size, &descriptor) {
            Ok(()) => Ok(()),
            Err(PeerMemoryError::Fault(fault)) => self.fault(fault),
            Err(PeerMemoryError::System(source)) => self.fail(IoFault::SharedMemory { source }),
        }
    }

    async fn take_payload(&mut self) -> Result<Frame> {
        self.receive_inline().await?;
        if let Stage::Judging(head, place) = &self.stage {
            let claimed = match place {
                Place::Inline(_) => crate::stream::memory_of(head),
                // The whole memory stays mapped for as long as the payload is in use.
                Place::Memory(spot, _) if self.mode == ShmMode::Sealed => spot.segment.len(),
                Place::Memory(spot, _) => to_u64(spot.len),
            };
            let claim = self.intake.claim(claimed).await?;
            if let Stage::Judging(head, place) = std::mem::replace(&mut self.stage, Stage::Between) {
                let payload = self.payload_at(&head, place);
                match self.intake.check(head, claim.attach(payload)) {
                    Checking::Done(frame) => return self.taken(frame),
                    Checking::Running(head, check) => self.stage = Stage::Checking(head, check),
                }
            }
        }
        let Stage::Checking(head, check) = &mut self.stage else {
            return Err(self.no_head());
        };
        let frame = self.intake.checked(head, check).await;
        self.taken(frame)
    }

    async fn receive_inline(&mut self) -> Result<()> {
        match self.stage {
            Stage::Judging(_, Place::Inline(len)) => self.need(len, len).await,
            _ => Ok(()),
        }
    }

    fn payload_at(&mut self, head: &FrameHead, place: Place) -> Bytes {
        match place {
            Place::Inline(len) => {
                let payload = copied(head, self.supply.bytes(), &self.pool);
                self.supply.consume(len);
                payload
            }
            Place::Memory(spot, token) => {
                self.returns.say(Word::Taken(token));
                let payload = Borrowed { spot, token, returns: Arc::clone(&self.returns) };
                // What unpacks it must not see it change.
                if self.mode == ShmMode::Pooled && head.header.flags.contains(Flags::COMPRESSED) {
                    copied(head, payload.as_ref(), &self.pool)
                } else {
                    Bytes::from_owner(payload)
                }
            }
        }
    }

    fn taken(&mut self, frame: Result<Frame>) -> Result<Frame> {
        let lives = frame.as_ref().err().is_none_or(TransportError::is_recoverable);
        self.stage = if lives { Stage::Between } else { Stage::Failed };
        frame
    }

    fn no_head(&self) -> TransportError {
        match self.stage {
            Stage::Failed => UsageError::Closed { peer: self.intake.peer.clone() }.into(),
            _ => UsageError::NoHead.into(),
        }
    }

    async fn refuse_payload(&mut self) -> Result<()> {
        let left = match &self.stage {
            Stage::Judging(_, Place::Inline(len)) => *len,
            Stage::Judging(_, Place::Memory(_, token)) => {
                self.returns.say(Word::Released(*token));
                0
            }
            Stage::Checking(..) => 0,
            _ => return Err(self.no_head()),
        };
        self.stage = Stage::Skipping(left);
        if let Err(error) = self.intake.refused() {
            return self.fail(error);
        }
        self.skip().await
    }

    async fn skip(&mut self) -> Result<()> {
        while let Stage::Skipping(left) = &mut self.stage {
            let ready = self.supply.bytes().len().min(*left);
            self.supply.consume(ready);
            *left -= ready;
            if *left == 0 {
                self.stage = Stage::Between;
                return Ok(());
            }
            let expected = *left;
            self.need(1, expected).await?;
        }
        Ok(())
    }

    async fn drain_all(&mut self) -> Result<()> {
        if matches!(self.stage, Stage::Ended) {
            return Ok(());
        }
        // The peer may wait for memory that nobody will take from it.
        self.returns.say(Word::Discarding);
        self.stage = Stage::Failed;
        loop {
            match self.supply.discard().await {
                Ok(0) => {
                    self.stage = Stage::Ended;
                    return Ok(());
                }
                Ok(_) => {}
                Err(source) => return self.fail(broken(&self.intake.peer, source)),
            }
        }
    }
}

impl Drop for ShmReceiver {
    fn drop(&mut self) {
        // Whoever waits for this side to take something waits in vain.
        self.returns.close();
    }
}

impl FrameReceiver for ShmReceiver {
    fn head(&mut self) -> BoxFuture<'_, Result<Option<&FrameHead>>> {
        Box::pin(async move {
            let there = self.await_head().await;
            self.intake.counted(there)?;
            match &self.stage {
                Stage::Judging(head, _) | Stage::Checking(head, _) => Ok(Some(head)),
                _ => Ok(None),
            }
        })
    }

    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Frame>>> {
        Box::pin(async move {
            let there = self.await_head().await;
            if !self.intake.counted(there)? {
                return Ok(None);
            }
            let frame = self.take_payload().await;
            self.intake.counted(frame).map(Some)
        })
    }

    fn payload(&mut self) -> BoxFuture<'_, Result<Frame>> {
        Box::pin(async move {
            let frame = self.take_payload().await;
            self.intake.counted(frame)
        })
    }

    fn refuse(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let refused = self.refuse_payload().await;
            self.intake.counted(refused)
        })
    }

    fn restrict(&mut self, bytes: u64) {
        self.intake.restrict(bytes);
    }

    fn unrestrict(&mut self) {
        self.intake.unrestrict();
    }

    fn drain(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.drain_all())
    }
}

/// The payload of `head`, from the start of `bytes`, in a buffer of this process.
fn copied(head: &FrameHead, bytes: &[u8], pool: &BufferPool) -> Bytes {
    let mut buffer = PayloadBuffer::pooled(head, pool);
    buffer.put(bytes);
    Bytes::from_owner(buffer)
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn to_usize(len: impl TryInto<usize>) -> usize {
    len.try_into().unwrap_or(usize::MAX)
}
