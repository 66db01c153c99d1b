//! Frames off a byte stream: heads and small payloads through a read-ahead buffer, large payloads straight into the
//! buffer that the caller gets.

use std::io;

use avp_wire::{BufferPool, Frame, FrameHead, Header};
use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::filling::Filling;
use crate::error::{Deadline, LimitExceeded, PeerFault, TransportError, UsageError};
use crate::idle::IdleWait;
use crate::intake::{Checking, Intake};
use crate::link::{BoxFuture, FrameReceiver, Result};
use crate::options::Options;
use crate::patience::Patience;
use crate::telemetry::{Direction, Meter};
use crate::work::Check;

/// Read-ahead while frames are small.
const AHEAD: usize = 128 << 10;
/// Read-ahead after a large payload: room for a head, little of a payload, since that part is copied once more.
const AHEAD_BULK: usize = 2 << 10;
/// Payloads up to this size come through the read-ahead buffer.
const SMALL: u64 = 16 << 10;

/// The receiving half over any byte stream. Everything read lives here and not in a future, so a dropped future loses
/// nothing.
pub(crate) struct StreamReceiver<R> {
    io: R,
    intake: Intake,
    pool: BufferPool,
    idle: IdleWait,
    patience: Patience,
    ahead: BytesMut,
    /// Whether the last payload was large.
    bulk: bool,
    stage: Stage,
}

/// Where in a frame the stream stands. One per connection; boxing the head would cost an allocation per frame.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
enum Stage {
    /// Before a head.
    Between,
    /// The head is known, nothing of the payload is taken.
    Judging(FrameHead),
    /// The payload is on its way.
    Filling(FrameHead, Filling),
    /// The payload is there and being checked.
    Checking(FrameHead, Check),
    /// So many bytes of a refused payload are still to come.
    Skipping(u64),
    /// The peer finished.
    Ended,
    /// Nothing more can be received.
    Failed,
}

impl<R> std::fmt::Debug for StreamReceiver<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamReceiver").field("peer", &self.intake.peer).finish_non_exhaustive()
    }
}

impl<R: AsyncRead + Unpin + Send> StreamReceiver<R> {
    pub(crate) fn new(io: R, peer: String, options: &Options, meter: Meter) -> Self {
        Self::with_intake(io, Intake::new(peer, options, meter), options)
    }

    /// For one of several streams of a connection.
    pub(crate) fn with_intake(io: R, intake: Intake, options: &Options) -> Self {
        let patience = Patience::new(&options.limits, intake.meter.clone(), Direction::Received);
        Self {
            io,
            intake,
            pool: options.pool.clone(),
            idle: IdleWait::new(&options.timeouts),
            patience,
            ahead: BytesMut::new(),
            bulk: false,
            stage: Stage::Between,
        }
    }

    /// The stream; what was read ahead is lost.
    pub(crate) fn into_io(self) -> R {
        self.io
    }

    fn fail<T>(&mut self, error: impl Into<TransportError>) -> Result<T> {
        self.stage = Stage::Failed;
        Err(error.into())
    }

    /// How far to read ahead: little while the peer is unknown, or its frames are large.
    fn room(&self) -> usize {
        if self.bulk || self.intake.is_restricted() { AHEAD_BULK } else { AHEAD }
    }

    /// Brings the stream to a head; `false` when the peer has finished.
    async fn await_head(&mut self) -> Result<bool> {
        loop {
            match self.stage {
                Stage::Judging(_) | Stage::Filling(..) | Stage::Checking(..) => return Ok(true),
                Stage::Ended => return Ok(false),
                Stage::Failed => return Err(UsageError::Closed { peer: self.intake.peer.clone() }.into()),
                Stage::Skipping(_) => self.skip().await?,
                Stage::Between => {
                    if !self.begin().await? {
                        self.stage = Stage::Ended;
                        return Ok(false);
                    }
                    let header = self.header().await?;
                    self.decode_head(header).await?;
                }
            }
        }
    }

    /// Waits for the first byte of a frame; `false` when the peer has finished.
    async fn begin(&mut self) -> Result<bool> {
        self.patience.reset();
        if !self.ahead.is_empty() {
            self.intake.give_way().await;
            return Ok(true);
        }
        let room = self.room();
        let reading = read_ahead(&mut self.io, &mut self.ahead, room);
        match self.idle.wait(&self.intake.peer, reading).await? {
            Ok(bytes) => Ok(bytes > 0),
            Err(source) => {
                let peer = self.intake.peer.clone();
                self.fail(TransportError::broken(peer, source))
            }
        }
    }

    async fn header(&mut self) -> Result<Header> {
        let mut have = 0;
        while have < Header::SIZE {
            have = (have + 1).max(self.ahead.len()).min(Header::SIZE);
            self.stage_bytes(have, Header::SIZE).await?;
            // Told from the first byte on, so that a peer of another protocol that waits for an answer is found out.
            let start = self.ahead.get(..have.min(2)).unwrap_or_default();
            if !avp_wire::MAGIC.starts_with(start) {
                let first = self.ahead.iter().copied().take(Header::SIZE).collect();
                let peer = self.intake.peer.clone();
                return self.fail(PeerFault::NotAvp { peer, first });
            }
        }
        match self.intake.header(&self.ahead) {
            Ok(header) => Ok(header),
            Err(error) => self.fail(error),
        }
    }

    async fn decode_head(&mut self, header: Header) -> Result<()> {
        // Metadata cannot go beyond its frame; lenient limits let a header say so.
        let metadata_len = header.metadata_length.min(header.payload_length);
        let head_len = Header::SIZE.saturating_add(to_usize(metadata_len));
        self.stage_bytes(head_len, to_usize(header.frame_len())).await?;
        match self.intake.head(header, self.ahead.get(Header::SIZE..head_len).unwrap_or_default()) {
            Ok(head) => {
                self.ahead.advance(head_len);
                self.stage = Stage::Judging(head);
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }

    /// Reads until the read-ahead buffer holds `needed` bytes of a frame of `expected`.
    async fn stage_bytes(&mut self, needed: usize, expected: usize) -> Result<()> {
        while self.ahead.len() < needed {
            let room = self.room().max(needed - self.ahead.len());
            let Self { io, ahead, patience, .. } = self;
            let got = patience.wait(read_ahead(io, ahead, room)).await;
            let have = self.ahead.len();
            self.note(got, have, expected)?;
        }
        Ok(())
    }

    /// Judges the outcome of one read within a frame.
    fn note(&mut self, read: Option<io::Result<usize>>, have: usize, expected: usize) -> Result<()> {
        if let Some(Ok(bytes @ 1..)) = read {
            self.patience.moved(bytes);
            return Ok(());
        }
        let peer = self.intake.peer.clone();
        let (got, expected) = (to_u64(have), to_u64(expected));
        match read {
            Some(Ok(_)) => self.fail(PeerFault::Truncated { peer, got, expected }),
            Some(Err(source)) if source.kind() == io::ErrorKind::Interrupted => Ok(()),
            Some(Err(source)) => self.fail(TransportError::broken(peer, source)),
            None => {
                let after = self.patience.waited();
                self.fail(LimitExceeded::Deadline { peer, which: Deadline::Receive, after, got, expected })
            }
        }
    }

    /// Claims memory and takes the payload's bytes that were read ahead.
    async fn start_filling(&mut self) -> Result<()> {
        let Stage::Judging(head) = &self.stage else {
            return Ok(());
        };
        let claim = self.intake.claim(super::filling::memory_of(head)).await?;
        let Stage::Judging(head) = std::mem::replace(&mut self.stage, Stage::Failed) else {
            return Ok(());
        };
        let mut filling = Filling::new(&head, claim, &self.pool);
        if head.sums_on_arrival(&self.intake.limits) {
            filling = filling.summing();
        }
        let taken = filling.put(&self.ahead);
        self.ahead.advance(taken);
        self.stage = Stage::Filling(head, filling);
        Ok(())
    }

    async fn fill(&mut self) -> Result<()> {
        loop {
            let Self { io, patience, .. } = self;
            let Stage::Filling(_, filling) = &mut self.stage else {
                return Ok(());
            };
            if filling.left() == 0 {
                return Ok(());
            }
            let read = patience.wait(filling.read_from(io)).await;
            let (have, expected) = (filling.filled(), filling.len());
            self.note(read, have, expected)?;
        }
    }

    async fn next(&mut self) -> Result<Option<Frame>> {
        if self.await_head().await? { self.take_payload().await.map(Some) } else { Ok(None) }
    }

    async fn take_payload(&mut self) -> Result<Frame> {
        self.prepare_small().await?;
        self.start_filling().await?;
        self.fill().await?;
        self.check().await.or_else(|error| if error.is_recoverable() { Err(error) } else { self.fail(error) })
    }

    /// Makes the frame of a payload that is there.
    async fn check(&mut self) -> Result<Frame> {
        match std::mem::replace(&mut self.stage, Stage::Between) {
            Stage::Filling(head, filling) => {
                if let Some(checksum) = filling.checksum() {
                    return self.intake.summed(head, filling.finish(), checksum);
                }
                match self.intake.check(head, filling.finish()) {
                    Checking::Done(frame) => return frame,
                    Checking::Running(head, check) => self.stage = Stage::Checking(head, check),
                }
            }
            other => self.stage = other,
        }
        let Stage::Checking(head, check) = &mut self.stage else {
            return Err(self.no_head());
        };
        let frame = self.intake.checked(head, check).await;
        self.stage = Stage::Between;
        frame
    }

    /// Small payloads come with what follows them in one read.
    async fn prepare_small(&mut self) -> Result<()> {
        let Stage::Judging(head) = &self.stage else {
            return Ok(());
        };
        let len = head.payload_len_on_wire();
        self.bulk = u64::from(len) > SMALL;
        if self.bulk { Ok(()) } else { self.stage_bytes(to_usize(len), to_usize(len)).await }
    }

    fn no_head(&self) -> TransportError {
        match self.stage {
            Stage::Failed => UsageError::Closed { peer: self.intake.peer.clone() }.into(),
            _ => UsageError::NoHead.into(),
        }
    }

    async fn refuse_payload(&mut self) -> Result<()> {
        let left = match &self.stage {
            Stage::Judging(head) => u64::from(head.payload_len_on_wire()),
            Stage::Filling(_, filling) => to_u64(filling.left()),
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
            let ready = self.ahead.len().min(to_usize(*left));
            self.ahead.advance(ready);
            *left -= to_u64(ready);
            if *left == 0 {
                self.stage = Stage::Between;
                return Ok(());
            }
            let expected = to_usize(*left);
            self.stage_bytes(1, expected).await?;
        }
        Ok(())
    }

    async fn drain_all(&mut self) -> Result<()> {
        loop {
            if matches!(self.stage, Stage::Ended) {
                return Ok(());
            }
            self.ahead.clear();
            match read_ahead(&mut self.io, &mut self.ahead, AHEAD).await {
                Ok(0) => self.stage = Stage::Ended,
                Ok(_) => {}
                Err(source) => {
                    let peer = self.intake.peer.clone();
                    return self.fail(TransportError::broken(peer, source));
                }
            }
        }
    }
}

impl<R: AsyncRead + Unpin + Send> FrameReceiver for StreamReceiver<R> {
    fn head(&mut self) -> BoxFuture<'_, Result<Option<&FrameHead>>> {
        Box::pin(async move {
            let there = self.await_head().await;
            self.intake.counted(there)?;
            match &self.stage {
                Stage::Judging(head) | Stage::Filling(head, _) | Stage::Checking(head, _) => Ok(Some(head)),
                _ => Ok(None),
            }
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

    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Frame>>> {
        Box::pin(async move {
            let frame = self.next().await;
            self.intake.counted(frame)
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

async fn read_ahead<R: AsyncRead + Unpin>(
    io: &mut R,
    ahead: &mut BytesMut,
    room: usize,
) -> io::Result<usize> {
    if ahead.capacity() - ahead.len() < room / 2 {
        ahead.reserve(room);
    }
    io.read_buf(&mut ahead.limit(room)).await
}

fn to_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn to_usize(len: impl TryInto<usize>) -> usize {
    len.try_into().unwrap_or(usize::MAX)
}
