//! Frames out of a connection over shared memory. Heads are read from the socket and judged as on any transport; a
//! payload in memory is given as a view of it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use avp_wire::{BufferPool, Bytes, Flags, FrameHead, Header, PayloadBuffer};
use tokio::time::sleep;

use super::fault::ShmFault;
use super::lending::{LOOK_FRAMES, Lending};
use super::link::Incoming;
use super::memory::PeerMemoryError;
use super::options::ShmMode;
use super::returns::{Borrowed, Returns};
use super::segments::{Segments, Spot};
use super::supply::{Supply, broken};
use super::wire::{MAX_INLINE, MAX_SEGMENTS, Record, Word};
use crate::descriptors::Passed;
use crate::error::{IoFault, PeerFault, TransportError};
use crate::idle::IdleWait;
use crate::intake::{Arrived, Intake};
use crate::link::Result;
use crate::options::Options;
use crate::patience::Patience;
use crate::receiver::{Inbox, Receiver};
use crate::telemetry::{Direction, Meter};

/// Records between two frames: every segment may be retired, and new ones passed.
const MAX_RECORDS: usize = 2 * MAX_SEGMENTS + 2;

/// How often it is looked, where no frame comes, whether the peer's words about payloads are in order. Whoever only receives
/// would not read them, and one that is woken by each wakes too often.
const LOOK: Duration = Duration::from_millis(250);
/// What was read from the socket and not used yet, and the peer's memory.
pub(super) struct ShmInbox {
    supply: Supply,
    /// For payloads that come through the socket, and for copies.
    pool: BufferPool,
    mode: ShmMode,
    segments: Segments,
    /// Descriptors that frames name.
    passed: Arc<Passed>,
    returns: Arc<Returns>,
    /// What this side lends, of which the peer speaks.
    lending: Arc<Lending>,
    /// Frames and records since the last look at that.
    unlooked: u32,
    idle: IdleWait,
    /// Whether a frame or its records have begun, for which the peer has its time.
    begun: bool,
    /// The header of that frame, once judged.
    header: Option<Header>,
    /// Records since the last frame.
    records: usize,
    /// Bytes of a refused payload that are still to come.
    skipping: usize,
}

/// Where the payload of a frame is; in memory with the token that it has.
pub(super) enum Place {
    Inline(usize),
    Memory(Spot, u64),
}

impl ShmInbox {
    pub(super) fn receiver(
        incoming: Incoming,
        (returns, lending, passed): (Arc<Returns>, Arc<Lending>, Arc<Passed>),
        mode: ShmMode,
        peer: String,
        options: &Options,
        meter: Meter,
    ) -> Receiver<Self> {
        let patience = Patience::new(&options.limits, meter.clone(), Direction::Received);
        let inbox = Self {
            supply: Supply::new(incoming, patience),
            pool: options.pool.clone(),
            mode,
            segments: Segments::new(mode, options.shm.peer_arena),
            passed,
            returns,
            lending,
            unlooked: 0,
            idle: IdleWait::new(&options.timeouts),
            begun: false,
            header: None,
            records: 0,
            skipping: 0,
        };
        Receiver::over(inbox, Intake::new(peer, options, meter))
    }
}

impl Inbox for ShmInbox {
    type Payload = Place;

    async fn next(&mut self, intake: &mut Intake) -> Result<Option<(FrameHead, Place)>> {
        while self.begin(intake).await? {
            if self.supply.bytes().first() != Some(&Record::FIRST) {
                return self.inline(intake).await.map(Some);
            }
            self.supply.need(&intake.peer, Record::SIZE, Record::SIZE).await?;
            let record = self.supply.bytes().first_chunk().map_or(Err(ShmFault::Malformed), Record::decode);
            match record.map_err(|fault| broke(intake, fault))? {
                Record::Payload { segment, offset, token } => {
                    return self.in_memory(intake, segment, offset, token).await.map(Some);
                }
                record => self.note(intake, record)?,
            }
        }
        Ok(None)
    }

    async fn take(&mut self, intake: &Intake, head: &FrameHead, place: &mut Place) -> Result<Arrived> {
        let claimed = match place {
            Place::Inline(len) => {
                self.supply.need(&intake.peer, *len, *len).await?;
                crate::stream::memory_of(head)
            }
            // The whole memory stays mapped for as long as the payload is in use.
            Place::Memory(spot, _) if self.mode == ShmMode::Sealed => spot.segment.len(),
            Place::Memory(spot, _) => to_u64(spot.len),
        };
        let claim = intake.claim(claimed).await?;
        Ok(claim.attach(self.payload_at(head, std::mem::replace(place, Place::Inline(0)))).into())
    }

    fn refuse(&mut self, _: &FrameHead, place: Place) {
        match place {
            Place::Inline(len) => self.skipping = len,
            Place::Memory(_, token) => self.returns.say(Word::Released(token)),
        }
    }

    async fn skip(&mut self, intake: &Intake) -> Result<()> {
        while self.skipping > 0 {
            self.supply.need(&intake.peer, 1, self.skipping).await?;
            let ready = self.supply.bytes().len().min(self.skipping);
            self.supply.consume(ready);
            self.skipping -= ready;
        }
        Ok(())
    }

    async fn drain(&mut self, intake: &Intake) -> Result<()> {
        // The peer may wait for memory that nobody will take from it.
        self.returns.say(Word::Discarding);
        loop {
            match self.supply.discard().await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(source) => return Err(broken(&intake.peer, source)),
            }
        }
    }
}

impl ShmInbox {
    /// Waits for the first byte of a frame or record; `false` when the peer has finished.
    async fn begin(&mut self, intake: &mut Intake) -> Result<bool> {
        if !self.begun {
            self.supply.be_patient();
        }
        self.unlooked += 1;
        if self.unlooked >= LOOK_FRAMES {
            self.look(intake)?;
        }
        if !self.supply.bytes().is_empty() {
            intake.give_way().await;
            self.begun = true;
            return Ok(true);
        }
        if self.supply.has_descriptors() {
            return Err(broke(intake, ShmFault::ExtraDescriptor));
        }
        let Self { idle, supply, lending, .. } = self;
        let read = idle.sleep(&intake.peer, read_or_fault(supply, lending)).await?;
        let read = read.map_err(|fault| broke(intake, fault))?;
        let there = read.map_err(|source| broken(&intake.peer, source))? > 0;
        self.begun |= there;
        Ok(there)
    }

    /// Whether the peer's words about payloads are in order.
    fn look(&mut self, intake: &Intake) -> Result<()> {
        self.unlooked = 0;
        self.lending.fault().map_or(Ok(()), |fault| Err(broke(intake, fault)))
    }

    /// A frame whose payload comes through the socket.
    async fn inline(&mut self, intake: &mut Intake) -> Result<(FrameHead, Place)> {
        let header = self.header(intake, 0).await?;
        let len = header.payload_len_on_wire();
        match to_usize(len) {
            inline @ 0..=MAX_INLINE => Ok((self.head(intake, header, 0).await?, Place::Inline(inline))),
            _ => Err(broke(intake, ShmFault::LongInline { len: u64::from(len) })),
        }
    }

    /// A frame whose payload lies where its record says.
    async fn in_memory(
        &mut self,
        intake: &mut Intake,
        segment: u32,
        offset: u64,
        token: u64,
    ) -> Result<(FrameHead, Place)> {
        let header = self.header(intake, Record::SIZE).await?;
        let head = self.head(intake, header, Record::SIZE).await?;
        // Not before the head is whole: sealed memory is found once, and a dropped future would lose it.
        let spot = self.segments.find(segment, offset, header.payload_len_on_wire());
        Ok((head, Place::Memory(spot.map_err(|fault| broke(intake, fault))?, token)))
    }

    /// The header that stands `at` bytes into what was read.
    async fn header(&mut self, intake: &mut Intake, at: usize) -> Result<Header> {
        if let Some(header) = self.header {
            return Ok(header);
        }
        let mut have = 0;
        while have < Header::SIZE {
            have = (have + 1).max(self.supply.bytes().len().saturating_sub(at)).min(Header::SIZE);
            self.supply.need(&intake.peer, at + have, at + Header::SIZE).await?;
            intake.opening(self.supply.bytes().get(at..).unwrap_or_default())?;
        }
        Ok(*self.header.insert(intake.header(self.supply.bytes().get(at..).unwrap_or_default())?))
    }

    /// The metadata of a header `at` bytes into what was read. Header and metadata are copies: the peer cannot reach them.
    async fn head(&mut self, intake: &Intake, header: Header, at: usize) -> Result<FrameHead> {
        let start = at + Header::SIZE;
        let end = start.saturating_add(to_usize(header.metadata_length));
        self.supply.need(&intake.peer, end, end).await?;
        let head = intake.head(header, self.supply.bytes().get(start..end).unwrap_or_default())?;
        self.supply.consume(end);
        (self.begun, self.header, self.records) = (false, None, 0);
        Ok(head)
    }

    /// Follows a record that stands alone.
    fn note(&mut self, intake: &Intake, record: Record) -> Result<()> {
        self.supply.consume(Record::SIZE);
        self.records += 1;
        let noted = match record {
            _ if self.records > MAX_RECORDS => Err(ShmFault::Churn),
            Record::Segment { id, size } => return self.map(intake, id, size),
            Record::Retire { id } => self.segments.retire(id),
            Record::Descriptor { token } => match self.supply.descriptor() {
                Some(descriptor) => {
                    self.passed.keep(token, descriptor);
                    Ok(())
                }
                None => Err(ShmFault::NoDescriptor),
            },
            Record::Payload { .. } => Ok(()),
        };
        noted.map_err(|fault| broke(intake, fault))
    }

    fn map(&mut self, intake: &Intake, id: u32, size: u64) -> Result<()> {
        let Some(descriptor) = self.supply.descriptor() else {
            return Err(broke(intake, ShmFault::NoDescriptor));
        };
        self.segments.map(id, size, &descriptor).map_err(|error| match error {
            PeerMemoryError::Fault(fault) => broke(intake, fault),
            PeerMemoryError::System(source) => IoFault::SharedMemory { source }.into(),
        })
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
}

impl Drop for ShmInbox {
    fn drop(&mut self) {
        // Whoever waits for this side to take something waits in vain.
        self.returns.close();
    }
}

/// One read, or a rule that the peer breaks meanwhile.
async fn read_or_fault(supply: &mut Supply, lending: &Lending) -> Result<io::Result<usize>, ShmFault> {
    let mut read = pin!(supply.read());
    loop {
        tokio::select! {
            biased;
            read = &mut read => return Ok(read),
            () = sleep(LOOK) => lending.fault().map_or(Ok(()), Err)?,
        }
    }
}

/// That the peer broke the rules of shared memory.
fn broke(intake: &Intake, fault: ShmFault) -> TransportError {
    PeerFault::SharedMemory { peer: intake.peer.clone(), fault }.into()
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

#[cfg(test)]
mod tests {
    use avp_wire::{EncodeOptions, Frame, Metadata};
    use tokio::net::UnixStream;
    use tokio::time::timeout;

    use super::super::arena::Arena;
    use super::super::link::send;
    use super::super::memory::sealed_copy;
    use super::super::socket::Socket;
    use super::*;
    use crate::link::FrameReceiver;
    use crate::url::Scheme;

    #[tokio::test]
    async fn a_future_dropped_within_a_head_loses_no_sealed_payload() {
        let [(theirs, ours), (_words, channel)] = [(); 2].map(|()| {
            let (left, right) = UnixStream::pair().unwrap();
            (Socket::new(left).unwrap(), Socket::new(right).unwrap())
        });
        let lending = Arc::new(Lending::new(Arena::new(0), 0, 0, Arc::clone(&channel)));
        let (incoming, words) =
            (Incoming::new(ours, Duration::ZERO), (Arc::new(Returns::new(channel)), lending, Arc::default()));
        let meter = Meter::requests(Scheme::SharedMemory);
        let (mode, options) = (ShmMode::Sealed, Options::default());
        let mut receiver = ShmInbox::receiver(incoming, words, mode, "p".into(), &options, meter);

        let metadata = Metadata { model_id: "m".into(), ..Metadata::default() };
        let frame = Frame::new(metadata, vec![7; 100]);
        let encoded = frame.encode(&EncodeOptions::default()).unwrap();
        let (memory, size) = sealed_copy(&encoded.payload).unwrap();
        send(&theirs, &Record::Segment { id: 0, size }.encode(), Some(&memory)).await.unwrap();
        let record = Record::Payload { segment: 0, offset: 0, token: 0 }.encode();
        let (start, rest) = encoded.head.split_at(Header::SIZE + 1);
        send(&theirs, &[&record[..], start].concat(), None).await.unwrap();
        assert!(timeout(Duration::from_millis(50), receiver.recv()).await.is_err(), "the head is not whole");
        send(&theirs, rest, None).await.unwrap();
        let received = receiver.recv().await.unwrap().unwrap();
        assert_eq!(received.payload, encoded.payload);
    }
}
