//! A connection to one peer, whatever carries it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use avp_handshake::PeerId;
use avp_wire::{EncodeOptions, EncodedFrame, Frame, FrameHead};
use tokio::time::timeout;

#[cfg(target_os = "linux")]
use crate::descriptors::Passed;
use crate::error::{Deadline, LimitExceeded};
use crate::half_open::HalfOpen;
use crate::link::{FrameReceiver, FrameSender, Result, Streams};
use crate::options::Options;
use crate::telemetry::{Carrier, Meter, Side};
use crate::work;

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PeerAddress {
    /// In this process, under this name.
    Memory(String),
    /// At a network address.
    Socket(SocketAddr),
    /// Another process of this machine, at the other end of a Unix socket.
    Process {
        /// Path of the socket.
        path: PathBuf,
        /// User of the process, as the system knows it.
        uid: u32,
        /// The process, where the system can name it.
        pid: Option<u32>,
    },
}

/// Who is at the other end, as far as the transport knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    address: PeerAddress,
    identity: Option<String>,
}

impl Peer {
    /// A peer of which only the address is known.
    #[must_use]
    pub fn at(address: PeerAddress) -> Self {
        Self { address, identity: None }
    }

    /// The same peer with a name that the transport has authenticated, such as a certificate's.
    #[must_use]
    pub fn with_identity(self, identity: String) -> Self {
        Self { identity: Some(identity), ..self }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &PeerAddress {
        &self.address
    }

    /// Who sessions of a new connection belong to. Without authentication nothing ties two connections together, so
    /// each is a party of its own.
    pub(crate) fn owner(&self) -> PeerId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        match self.identity() {
            Some(identity) => PeerId::new(identity),
            None => PeerId::new(format!("{self} on connection {}", NEXT.fetch_add(1, Ordering::Relaxed))),
        }
    }

    /// Who it is, if the transport has authenticated it. What the peer says of itself in its hello is not this.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            PeerAddress::Memory(name) => write!(f, "avp+mem:{name}"),
            PeerAddress::Socket(address) => write!(f, "{address}"),
            PeerAddress::Process { path, uid, pid: Some(pid) } => {
                write!(f, "process {pid} of user {uid} at {}", path.display())
            }
            PeerAddress::Process { path, uid, pid: None } => {
                write!(f, "a process of user {uid} at {}", path.display())
            }
        }
    }
}

/// A connection to one peer: one ordered stream of frames each way, and further ones where the transport has them.
///
/// Use it whole, or [`split`](Self::split) it to send and receive from different tasks. Dropping it ends it at once;
/// [`close`](Self::close) ends it after everything has arrived.
#[derive(Debug)]
pub struct Connection {
    peer: Peer,
    peer_id: PeerId,
    options: Options,
    meter: Meter,
    sender: Box<dyn FrameSender>,
    receiver: Box<dyn FrameReceiver>,
    streams: Option<Arc<dyn Streams>>,
    #[cfg(target_os = "linux")]
    passed: Option<Arc<Passed>>,
    half_open: Option<HalfOpen>,
    admitted: bool,
}

impl Connection {
    /// Joins two halves; for implementers of transports. Metrics count the connection, its handshake and its transfers as
    /// of the transport `custom`; what goes through the halves is theirs to count.
    #[must_use]
    pub fn new(
        peer: Peer,
        sender: Box<dyn FrameSender>,
        receiver: Box<dyn FrameReceiver>,
        options: &Options,
    ) -> Self {
        let meter = Meter::connection(Carrier::Custom, Side::Neither, &peer);
        Self::metered(peer, sender, receiver, options, meter)
    }

    /// Joins two halves that count what goes through them.
    pub(crate) fn metered(
        peer: Peer,
        sender: Box<dyn FrameSender>,
        receiver: Box<dyn FrameReceiver>,
        options: &Options,
        meter: Meter,
    ) -> Self {
        let peer_id = peer.owner();
        let options = options.clone();
        Self {
            peer,
            peer_id,
            options,
            meter,
            sender,
            receiver,
            streams: None,
            #[cfg(target_os = "linux")]
            passed: None,
            half_open: None,
            admitted: false,
        }
    }

    /// The same connection where the transport has further streams; for implementers of transports.
    #[must_use]
    pub fn with_streams(self, streams: Arc<dyn Streams>) -> Self {
        Self { streams: Some(streams), ..self }
    }

    /// The same connection where descriptors come beside its frames.
    #[cfg(target_os = "linux")]
    pub(crate) fn with_passed(self, passed: Arc<Passed>) -> Self {
        Self { passed: Some(passed), ..self }
    }

    /// Descriptors that came beside the frames; `None` where none can come.
    #[cfg(target_os = "linux")]
    pub(crate) fn passed(&self) -> Option<Arc<Passed>> {
        self.passed.clone()
    }

    /// Whether descriptors can be passed beside frames, by [`Transfer::pass`](crate::Transfer::pass): to a process of this
    /// machine.
    #[must_use]
    pub fn passes_descriptors(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.passed.is_some();
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// The streams beside the first, where the transport has them. [`Transfers`](crate::Transfers) uses them.
    #[must_use]
    pub fn streams(&self) -> Option<Arc<dyn Streams>> {
        self.streams.clone()
    }

    pub(crate) fn with_half_open(self, place: HalfOpen) -> Self {
        Self { half_open: Some(place), ..self }
    }

    pub(crate) fn take_half_open(&mut self) -> Option<HalfOpen> {
        self.half_open.take()
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Who sessions of this connection belong to: the authenticated identity, or this connection alone.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer_id.clone()
    }

    /// Names the peer by what it has shown.
    pub(crate) fn identify(&mut self, identity: String) {
        self.peer_id = PeerId::new(identity.as_str());
        self.peer.identity = Some(identity);
    }

    /// Names the peer by credentials that the transport has checked, so that its hello needs none.
    pub(crate) fn admit(mut self, identity: String) -> Self {
        self.identify(identity);
        Self { admitted: true, ..self }
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// What this connection allows.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Takes the connection out of the count of half-open ones. [`negotiate_server`](crate::negotiate_server) does it;
    /// servers that negotiate by other means call it when they know their peer.
    pub fn established(&mut self) {
        self.half_open = None;
    }

    /// The halves, borrowed.
    pub fn halves(&mut self) -> (&mut dyn FrameSender, &mut dyn FrameReceiver) {
        (&mut *self.sender, &mut *self.receiver)
    }

    /// The halves, to be used from different tasks. Each side then ends with [`FrameSender::finish`].
    #[must_use]
    pub fn split(self) -> (Box<dyn FrameSender>, Box<dyn FrameReceiver>) {
        (self.sender, self.receiver)
    }

    /// Sends an encoded frame. See [`FrameSender::send`].
    ///
    /// # Errors
    /// The connection has failed, or the peer took too long to take the frame.
    pub async fn send(&mut self, frame: EncodedFrame) -> Result<()> {
        self.sender.send(frame).await
    }

    /// Encodes and sends a frame; gives the bytes it has on the wire. Compression, and checksums of large payloads,
    /// run on a blocking thread.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`UsageError::Encode`](crate::UsageError::Encode) where the frame cannot be
    /// written.
    pub async fn send_frame(&mut self, frame: &Frame, encoding: &EncodeOptions) -> Result<usize> {
        let encoded = work::encode(frame, encoding, &self.peer).await?;
        let len = encoded.len();
        self.sender.send(encoded).await?;
        self.meter.said(frame);
        Ok(len)
    }

    /// The next frame; `None` once the peer has finished. See [`FrameReceiver::recv`].
    ///
    /// # Errors
    /// A [`PeerFault`](crate::PeerFault), or a deadline or budget exceeded;
    /// [`is_recoverable`](crate::TransportError::is_recoverable) says whether the next frame can still be received.
    pub async fn recv(&mut self) -> Result<Option<Frame>> {
        self.receiver.recv().await
    }

    /// The head of the next frame, before its payload is received. See [`FrameReceiver::head`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn head(&mut self) -> Result<Option<&FrameHead>> {
        self.receiver.head().await
    }

    /// The payload that belongs to the pending head. See [`FrameReceiver::payload`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn payload(&mut self) -> Result<Frame> {
        self.receiver.payload().await
    }

    /// Discards the payload that belongs to the pending head. See [`FrameReceiver::refuse`].
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn refuse(&mut self) -> Result<()> {
        self.receiver.refuse().await
    }

    /// Ends the connection after everything sent has arrived: finishes the sending side, then waits for the peer to
    /// finish its own, dropping what it still sends.
    ///
    /// # Errors
    /// The peer did not take the rest, or did not end its side before
    /// [`Timeouts::close`](crate::Timeouts::close). The connection is gone in either case.
    pub async fn close(mut self) -> Result<()> {
        self.sender.finish().await?;
        let after = self.options.timeouts.close;
        timeout(after, self.receiver.drain()).await.unwrap_or_else(|_| {
            let peer = self.peer.to_string();
            Err(LimitExceeded::Deadline { peer, which: Deadline::Close, after, got: 0, expected: 0 }.into())
        })
    }
}
