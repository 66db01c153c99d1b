//! Frames off a byte stream: heads and small payloads through a read-ahead buffer, large payloads straight into the
//! buffer that the caller gets.

use std::io;

use avp_wire::{BufferPool, FrameHead, Header};
use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::filling::{Filling, memory_of};
use crate::error::TransportError;
use crate::idle::IdleWait;
use crate::intake::{Arrived, Intake};
use crate::link::Result;
use crate::options::Options;
use crate::patience::Patience;
use crate::receiver::{Inbox, Receiver};
use crate::telemetry::{Direction, Meter};

/// Read-ahead while frames are small.
const AHEAD: usize = 128 << 10;
/// Read-ahead after a large payload: room for a head, little of a payload, since that part is copied once more.
const AHEAD_BULK: usize = 2 << 10;
/// Payloads up to this size come through the read-ahead buffer.
const SMALL: usize = 16 << 10;

/// The receiving half over any byte stream.
pub(crate) type StreamReceiver<R> = Receiver<StreamInbox<R>>;

impl<R: AsyncRead + Unpin + Send> StreamReceiver<R> {
    pub(crate) fn new(io: R, peer: String, options: &Options, meter: Meter) -> Self {
        Self::with_intake(io, Intake::new(peer, options, meter), options)
    }

    /// For one of several streams of a connection.
    pub(crate) fn with_intake(io: R, intake: Intake, options: &Options) -> Self {
        let patience = Patience::new(&options.limits, intake.meter.clone(), Direction::Received);
        let inbox = StreamInbox {
            io,
            pool: options.pool.clone(),
            idle: IdleWait::new(&options.timeouts),
            patience,
            ahead: BytesMut::new(),
            begun: false,
            header: None,
            bulk: false,
            skipping: 0,
        };
        Self::over(inbox, intake)
    }

    /// The stream; what was read ahead is lost.
    pub(crate) fn into_io(self) -> R {
        self.into_inbox().io
    }
}

/// What was read from a stream and not used yet, and where more comes from.
pub(crate) struct StreamInbox<R> {
    io: R,
    pool: BufferPool,
    idle: IdleWait,
    patience: Patience,
    ahead: BytesMut,
    /// Whether a head has begun that is not whole, and for which the peer has its time.
    begun: bool,
    /// Its header, once judged.
    header: Option<Header>,
    /// Whether the last payload was large.
    bulk: bool,
    /// Bytes of a refused payload that are still to come.
    skipping: usize,
}

impl<R: AsyncRead + Unpin + Send> Inbox for StreamInbox<R> {
    /// On its way once memory is claimed for it.
    type Payload = Option<Filling>;

    async fn next(&mut self, intake: &mut Intake) -> Result<Option<(FrameHead, Option<Filling>)>> {
        if !self.begin(intake).await? {
            return Ok(None);
        }
        let header = self.header(intake).await?;
        let head_len = Header::SIZE.saturating_add(to_usize(header.metadata_length));
        self.need(intake, head_len, to_usize(header.frame_len())).await?;
        let head = intake.head(header, self.ahead.get(Header::SIZE..head_len).unwrap_or_default())?;
        self.ahead.advance(head_len);
        (self.begun, self.header) = (false, None);
        Ok(Some((head, None)))
    }

    async fn take(
        &mut self,
        intake: &Intake,
        head: &FrameHead,
        payload: &mut Option<Filling>,
    ) -> Result<Arrived> {
        loop {
            if let Some(whole) = payload.take_if(|filling| filling.left() == 0) {
                let checksum = whole.checksum();
                return Ok(Arrived { payload: whole.finish(), checksum });
            }
            match payload {
                Some(filling) => {
                    let read = self.patience.wait(filling.read_from(&mut self.io)).await;
                    self.patience.judge(read, &intake.peer, filling.filled(), filling.len())?;
                }
                None => *payload = Some(self.start_filling(intake, head).await?),
            }
        }
    }

    fn refuse(&mut self, head: &FrameHead, payload: Option<Filling>) {
        self.skipping =
            payload.map_or_else(|| to_usize(head.payload_len_on_wire()), |filling| filling.left());
    }

    async fn skip(&mut self, intake: &Intake) -> Result<()> {
        while self.skipping > 0 {
            self.need(intake, 1, self.skipping).await?;
            let ready = self.ahead.len().min(self.skipping);
            self.ahead.advance(ready);
            self.skipping -= ready;
        }
        Ok(())
    }

    async fn drain(&mut self, intake: &Intake) -> Result<()> {
        loop {
            self.ahead.clear();
            match read_ahead(&mut self.io, &mut self.ahead, AHEAD).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(source) => return Err(TransportError::broken(intake.peer.clone(), source)),
            }
        }
    }
}

impl<R: AsyncRead + Unpin> StreamInbox<R> {
    /// How far to read ahead: little while the peer is unknown, or its frames are large.
    fn room(&self, intake: &Intake) -> usize {
        if self.bulk || intake.is_restricted() { AHEAD_BULK } else { AHEAD }
    }

    /// Waits for the first byte of a frame; `false` when the peer has finished.
    async fn begin(&mut self, intake: &mut Intake) -> Result<bool> {
        if self.begun {
            return Ok(true);
        }
        self.patience.reset();
        if self.ahead.is_empty() {
            let room = self.room(intake);
            let reading = read_ahead(&mut self.io, &mut self.ahead, room);
            let read = self.idle.wait(&intake.peer, reading).await?;
            self.begun = read.map_err(|source| TransportError::broken(intake.peer.clone(), source))? > 0;
        } else {
            intake.give_way().await;
            self.begun = true;
        }
        Ok(self.begun)
    }

    async fn header(&mut self, intake: &mut Intake) -> Result<Header> {
        if let Some(header) = self.header {
            return Ok(header);
        }
        let mut have = 0;
        while have < Header::SIZE {
            have = (have + 1).max(self.ahead.len()).min(Header::SIZE);
            self.need(intake, have, Header::SIZE).await?;
            intake.opening(&self.ahead)?;
        }
        Ok(*self.header.insert(intake.header(&self.ahead)?))
    }

    /// Reads until the read-ahead buffer holds `needed` bytes of `expected`.
    async fn need(&mut self, intake: &Intake, needed: usize, expected: usize) -> Result<()> {
        while self.ahead.len() < needed {
            let room = self.room(intake).max(needed - self.ahead.len());
            let read = self.patience.wait(read_ahead(&mut self.io, &mut self.ahead, room)).await;
            self.patience.judge(read, &intake.peer, self.ahead.len(), expected)?;
        }
        Ok(())
    }

    /// Claims memory and takes the payload's bytes that were read ahead.
    async fn start_filling(&mut self, intake: &Intake, head: &FrameHead) -> Result<Filling> {
        let len = to_usize(head.payload_len_on_wire());
        self.bulk = len > SMALL;
        if !self.bulk {
            // Small payloads come with what follows them in one read.
            self.need(intake, len, len).await?;
        }
        let claim = intake.claim(memory_of(head)).await?;
        let mut filling = Filling::new(head, claim, &self.pool);
        if head.sums_on_arrival(&intake.limits) {
            filling = filling.summing();
        }
        let taken = filling.put(&self.ahead);
        self.ahead.advance(taken);
        Ok(filling)
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

fn to_usize(len: impl TryInto<usize>) -> usize {
    len.try_into().unwrap_or(usize::MAX)
}
