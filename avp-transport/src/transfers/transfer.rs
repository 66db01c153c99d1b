//! One transfer: its frames out, on the first stream or one of its own, and in, from all of its streams.

#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use avp_wire::{EncodeOptions, EncodedFrame, Frame, ext};
use tokio::sync::{Mutex, mpsc};

use super::routes::{End, Inlet};
use super::shared::{Shared, streams_announced, streams_note};
use super::sources::Sources;
use crate::error::{LimitExceeded as Limit, TransportError, UsageError};
use crate::link::{FrameReceiver, FrameSender, Result};
use crate::telemetry::TransferMeter;
use crate::work;

/// One of several transfers of a connection. Dropping it ends it; frames that still come for it are discarded, and whole
/// frames that were sent arrive.
#[derive(Debug)]
pub struct Transfer {
    id: String,
    shared: Arc<Shared>,
    meter: Arc<TransferMeter>,
    outlet: Arc<Outlet>,
    inlet: Inlet,
    /// Streams that this transfer is received from.
    sources: Sources,
    /// Whether the peer began it.
    is_accepted: bool,
    /// Streams for this transfer that the peer opened and that came.
    came: u64,
    /// Further streams that the peer says it opened for this transfer.
    announced: u64,
    /// Whether it has had a stream.
    has_begun: bool,
    /// Whether a stream of it broke.
    has_failed: bool,
}

/// A further stream for frames of a transfer. They arrive in their order on this stream, in any order beside those of other
/// streams. Dropping it ends it after everything sent has arrived.
#[derive(Debug)]
pub struct Stripe {
    id: String,
    shared: Arc<Shared>,
    meter: Arc<TransferMeter>,
    outlet: Arc<Outlet>,
}

/// The sending half of a stream, to be opened with its first frame.
#[derive(Debug, Default)]
pub(super) struct Outlet {
    sender: Mutex<Option<Box<dyn FrameSender>>>,
    /// Receiving halves of streams that this side opened, for the transfer to pick up.
    returns: StdMutex<Vec<Box<dyn FrameReceiver>>>,
    /// Stripes that were opened.
    stripes: Mutex<u64>,
}

impl Outlet {
    fn over(sender: Option<Box<dyn FrameSender>>) -> Arc<Self> {
        Arc::new(Self { sender: Mutex::new(sender), ..Self::default() })
    }

    async fn send(&self, frame: EncodedFrame, shared: &Shared) -> Result<()> {
        let mut sender = self.sender.lock().await;
        let sender = match &mut *sender {
            Some(sender) => sender,
            none => {
                let (sender, receiver) = shared.open_stream().await?;
                self.keep(receiver);
                none.insert(sender)
            }
        };
        sender.send(frame).await
    }

    fn keep(&self, receiver: Box<dyn FrameReceiver>) {
        self.returns.lock().unwrap_or_else(PoisonError::into_inner).push(receiver);
    }

    fn returned(&self) -> Vec<Box<dyn FrameReceiver>> {
        std::mem::take(&mut *self.returns.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn finish(&self) -> Result<()> {
        match &mut *self.sender.lock().await {
            Some(sender) => match sender.finish().await {
                // It has failed before, and said so.
                Err(TransportError::Usage(UsageError::Closed { .. })) => Ok(()),
                done => done,
            },
            None => Ok(()),
        }
    }
}

impl Transfer {
    pub(super) fn new(
        id: String,
        inlet: Inlet,
        sender: Option<Box<dyn FrameSender>>,
        shared: &Arc<Shared>,
    ) -> Self {
        let is_accepted = sender.is_some();
        let outlet = Outlet::over(sender);
        shared.enlist(&outlet);
        let meter = Arc::new(TransferMeter::new(&shared.meter, &id));
        let shared = Arc::clone(shared);
        Self {
            id,
            shared,
            meter,
            outlet,
            inlet,
            sources: Sources::default(),
            is_accepted,
            came: 0,
            announced: 0,
            has_begun: false,
            has_failed: false,
        }
    }

    /// Its id, which `avp.transfer` of its frames carries.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it has a stream of its own.
    fn has_streams(&self) -> bool {
        self.shared.has_streams() && !self.id.is_empty()
    }

    /// Sends a frame of this transfer; `avp.transfer` is set. Where transfers share a stream their frames take turns. What
    /// is sent to a transfer that the peer has dropped is discarded.
    ///
    /// # Errors
    /// As [`Connection::send_frame`](crate::Connection::send_frame).
    pub async fn send(&self, frame: Frame, encoding: &EncodeOptions) -> Result<()> {
        let sending = self.meter.sending(&frame);
        let outcome = self.put(frame, encoding).await;
        sending.done(&outcome);
        outcome
    }

    /// Whether descriptors can be passed to the peer.
    #[must_use]
    pub fn passes_descriptors(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.shared.passed().is_some();
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Passes a descriptor to the peer, a process of this machine, and gives the token by which a frame that is sent later
    /// names it.
    ///
    /// # Errors
    /// [`UsageError::NoDescriptors`] unless the connection [passes them](Self::passes_descriptors); as
    /// [`send`](Self::send).
    #[cfg(target_os = "linux")]
    pub async fn pass(&self, descriptor: OwnedFd) -> Result<u64> {
        self.shared.pass(descriptor).await
    }

    /// The descriptor that the peer passed with this token, if it did and nobody has claimed it. What it is of is the
    /// peer's word. Eight wait to be claimed at most; the oldest make room.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn claim(&self, token: u64) -> Option<OwnedFd> {
        self.shared.passed()?.claim(token)
    }

    async fn put(&self, frame: Frame, encoding: &EncodeOptions) -> Result<()> {
        let encoded = encode(frame, &self.id, encoding, &self.shared).await?;
        if self.has_streams() {
            self.outlet.send(encoded, &self.shared).await
        } else {
            self.shared.sender.lock().await.send(encoded).await
        }
    }

    /// A further stream for frames of this transfer, so that a loss on one does not hold up the others; the peer's `recv`
    /// merges them. `None` where the transport has one stream.
    ///
    /// # Errors
    /// As [`send`](Self::send); also when the peer lets this side have no more streams within the frame deadline.
    pub async fn stripe(&self) -> Result<Option<Stripe>> {
        if !self.has_streams() {
            return Ok(None);
        }
        let note = |count| streams_note(&self.id, count).encode(&EncodeOptions::default());
        let (mut sender, receiver) = self.shared.open_stream().await?;
        // On the stripe the note names the transfer; on the transfer's own stream it says, before that ends, that there is
        // one stripe more to wait for.
        sender.send(note(0).map_err(UsageError::Encode)?).await?;
        self.outlet.keep(receiver);
        let outlet = Outlet::over(Some(sender));
        self.shared.enlist(&outlet);
        let mut stripes = self.outlet.stripes.lock().await;
        *stripes += 1;
        self.outlet.send(note(*stripes).map_err(UsageError::Encode)?, &self.shared).await?;
        let (shared, meter) = (Arc::clone(&self.shared), Arc::clone(&self.meter));
        Ok(Some(Stripe { id: self.id.clone(), shared, meter, outlet }))
    }

    /// The next frame of this transfer; `None` once the peer has finished. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`FrameReceiver::recv`]; a damaged frame is an error of its own transfer alone. A frame that there is no memory
    /// for is refused, as is one of another transfer on a stream of this one ([`PeerFault::OtherTransfer`]); the next is
    /// received then.
    ///
    /// [`PeerFault::OtherTransfer`]: crate::PeerFault::OtherTransfer
    pub async fn recv(&mut self) -> Result<Option<Frame>> {
        let outcome = self.next().await;
        match &outcome {
            Ok(Some(frame)) => self.meter.received(frame),
            Ok(None) => {}
            Err(error) => self.meter.error(error),
        }
        outcome
    }

    async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            self.pick_up();
            let lane_open = !self.inlet.frames.is_closed() || !self.inlet.frames.is_empty();
            if self.is_complete() || self.sources.is_empty() && !lane_open && self.inlet.streams.is_none() {
                return self.end();
            }
            let Self { id, shared, inlet, sources, .. } = self;
            let (has_sources, has_streams) = (!sources.is_empty(), inlet.streams.is_some());
            tokio::select! {
                biased;
                (from, frame) = sources.next(id, &shared.peer), if has_sources => {
                    if let Some(frame) = self.judge(from, frame) {
                        return frame.map(Some);
                    }
                }
                frame = inlet.frames.recv(), if lane_open => if let Some(frame) = frame {
                    return frame.map(Some);
                },
                stream = next_stream(&mut inlet.streams), if has_streams => self.attach(stream),
                routed = shared.route_one(), if lane_open => routed?,
            }
        }
    }

    /// Takes streams that arrived, and the returning halves of those that this side opened.
    fn pick_up(&mut self) {
        let returned = self.outlet.returned();
        self.has_begun |= !returned.is_empty();
        returned.into_iter().for_each(|stream| self.sources.push(stream));
        while let Some(Ok(stream)) = self.inlet.streams.as_mut().map(mpsc::UnboundedReceiver::try_recv) {
            self.attach(Some(stream));
        }
    }

    fn attach(&mut self, stream: Option<Box<dyn FrameReceiver>>) {
        match stream {
            Some(stream) => {
                self.sources.push(stream);
                self.has_begun = true;
                self.came += 1;
            }
            None => self.inlet.streams = None,
        }
    }

    /// Makes of what came on a stream what the caller gets, if anything.
    fn judge(&mut self, from: usize, frame: Result<Option<Frame>>) -> Option<Result<Frame>> {
        match frame {
            Ok(Some(frame)) => {
                let Some(count) = streams_announced(&frame.metadata) else { return Some(Ok(frame)) };
                self.announced = self.announced.max(count);
                None
            }
            Ok(None) => {
                self.sources.remove(from);
                None
            }
            Err(error) => {
                if !error.is_recoverable() {
                    self.sources.remove(from);
                    self.has_failed = true;
                }
                if matches!(error, TransportError::Limit(Limit::TinyFrames { .. } | Limit::Rejects { .. })) {
                    // These are budgets of the connection.
                    self.shared.board.end(End::Failed);
                }
                Some(Err(error))
            }
        }
    }

    /// Streams that the peer opened for this transfer, as far as is known.
    fn expected(&self) -> u64 {
        // The one that began it was not announced.
        self.announced.saturating_add(u64::from(self.is_accepted))
    }

    /// Whether every stream of this transfer came and ended.
    fn is_complete(&mut self) -> bool {
        let came = self.has_begun && self.came >= self.expected();
        came && self.sources.is_empty() && self.inlet.frames.is_empty()
    }

    fn end(&mut self) -> Result<Option<Frame>> {
        if self.has_failed || self.came < self.expected() {
            return Err(self.shared.closed().into());
        }
        if self.is_complete() { Ok(None) } else { self.shared.end_of_transfer(&self.id) }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut routes = self.shared.board.routes();
        if routes.has_failed() {
            self.meter.failed();
        }
        routes.end(&self.id);
    }
}

impl Stripe {
    /// Sends a frame of the transfer on this stream; `avp.transfer` is set.
    ///
    /// # Errors
    /// As [`Transfer::send`].
    pub async fn send(&self, frame: Frame, encoding: &EncodeOptions) -> Result<()> {
        let sending = self.meter.sending(&frame);
        let outcome = async {
            let encoded = encode(frame, &self.id, encoding, &self.shared).await?;
            self.outlet.send(encoded, &self.shared).await
        };
        let outcome = outcome.await;
        sending.done(&outcome);
        outcome
    }
}

async fn encode(
    mut frame: Frame,
    id: &str,
    encoding: &EncodeOptions,
    shared: &Shared,
) -> Result<EncodedFrame> {
    if !id.is_empty() {
        frame.metadata.extra.insert(ext::TRANSFER.to_owned(), id.to_owned());
    }
    work::encode(&frame, encoding, &shared.peer).await
}

async fn next_stream(
    streams: &mut Option<mpsc::UnboundedReceiver<Box<dyn FrameReceiver>>>,
) -> Option<Box<dyn FrameReceiver>> {
    match streams {
        Some(streams) => streams.recv().await,
        None => None,
    }
}
