//! The in-memory transport: frames change hands between tasks of one process, payloads are never copied.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use avp_wire::{EncodedFrame, FrameHead, Header};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use crate::connection::{Connection, Peer, PeerAddress};
use crate::error::{Deadline, Incompatible, IoFault, LimitExceeded, TransportError, UsageError};
use crate::idle::IdleWait;
use crate::intake::{Arrived, Intake};
use crate::link::{BoxFuture, Connector, FrameSender, Listener, Result};
use crate::options::Options;
use crate::receiver::{Inbox, Receiver};
use crate::telemetry::{Direction, Meter, Side, connecting};
use crate::url::{Scheme, TransportUrl};

/// Frames on their way in one direction.
const QUEUE_FRAMES: usize = 64;
/// Bytes on their way in one direction, in grains; a larger frame travels alone.
const QUEUE_GRAINS: usize = 16 << 10;
const GRAIN: usize = 4 << 10;
/// Connections that wait to be accepted.
const BACKLOG: usize = 64;

/// Where connections to a name go, and what its listener allows.
type Door = (mpsc::Sender<Connection>, Options);
type Names = StdMutex<HashMap<String, Door>>;
static LISTENERS: LazyLock<Names> = LazyLock::new(Names::default);

/// Two connected ends, without a name: what one sends the other receives.
///
/// ```
/// # use avp_transport::{memory_pair, Options};
/// let (alice, bob) = memory_pair("pair", &Options::default());
/// assert_eq!(alice.peer(), bob.peer());
/// ```
#[must_use]
pub fn memory_pair(name: &str, options: &Options) -> (Connection, Connection) {
    join(name, options, options)
}

fn join(name: &str, left: &Options, right: &Options) -> (Connection, Connection) {
    let (left_tx, right_rx) = mpsc::channel(QUEUE_FRAMES);
    let (right_tx, left_rx) = mpsc::channel(QUEUE_FRAMES);
    let end = |tx, rx, options: &Options, side| {
        let peer = Peer::at(PeerAddress::Memory(name.to_owned()));
        let meter = Meter::connection(Scheme::Memory, side, &peer);
        let sender = MemorySender {
            queue: Some(tx),
            window: Arc::new(Semaphore::new(QUEUE_GRAINS)),
            peer: peer.to_string(),
            patience: options.limits.frame_timeout,
            meter: meter.clone(),
        };
        let inbox = MemoryInbox { queue: rx, idle: IdleWait::new(&options.timeouts) };
        let receiver = Receiver::over(inbox, Intake::new(peer.to_string(), options, meter.clone()));
        Connection::metered(peer, Box::new(sender), Box::new(receiver), options, meter)
    };
    (end(left_tx, left_rx, left, Side::Client), end(right_tx, right_rx, right, Side::Server))
}

/// Connects to listeners of this process.
#[derive(Clone, Debug, Default)]
pub struct MemoryConnector {
    options: Options,
}

impl MemoryConnector {
    /// A connector with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    async fn open(&self, url: &TransportUrl) -> Result<Connection> {
        let TransportUrl::Memory { name } = url else {
            return Err(not_memory(url));
        };
        let unreachable = || IoFault::Unreachable {
            url: url.clone(),
            source: io::Error::new(io::ErrorKind::NotFound, "nobody in this process listens under that name"),
        };
        let (door, theirs) = names(|listeners| listeners.get(name).cloned()).ok_or_else(unreachable)?;
        let (ours, theirs) = join(name, &self.options, &theirs);
        let after = self.options.timeouts.connect;
        match timeout(after, door.send(theirs)).await {
            Ok(Ok(())) => Ok(ours),
            Ok(Err(_)) => Err(unreachable().into()),
            Err(_) => {
                let (peer, which) = (url.to_string(), Deadline::Connect);
                Err(LimitExceeded::Deadline { peer, which, after, got: 0, expected: 0 }.into())
            }
        }
    }
}

impl Connector for MemoryConnector {
    fn connect<'a>(&'a self, url: &'a TransportUrl) -> BoxFuture<'a, Result<Connection>> {
        Box::pin(async move { connecting(Scheme::Memory, self.open(url).await) })
    }
}

/// Accepts connections from this process. The name is free again when the listener is dropped.
#[derive(Debug)]
pub struct MemoryListener {
    url: TransportUrl,
    waiting: Mutex<mpsc::Receiver<Connection>>,
}

impl MemoryListener {
    /// Takes the name of an `avp+mem` URL.
    ///
    /// # Errors
    /// [`UsageError::NameInUse`] where another listener has it.
    pub fn bind(url: &TransportUrl, options: Options) -> Result<Self> {
        let TransportUrl::Memory { name } = url else {
            return Err(not_memory(url));
        };
        let (tx, rx) = mpsc::channel(BACKLOG);
        let taken = names(|listeners| {
            let taken = listeners.contains_key(name);
            if !taken {
                listeners.insert(name.clone(), (tx, options));
            }
            taken
        });
        if taken {
            return Err(UsageError::NameInUse { name: name.clone() }.into());
        }
        Ok(Self { url: url.clone(), waiting: Mutex::new(rx) })
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        if let TransportUrl::Memory { name } = &self.url {
            names(|listeners| listeners.remove(name));
        }
    }
}

impl Listener for MemoryListener {
    fn accept(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async move {
            let closed = || UsageError::Closed { peer: self.url.to_string() }.into();
            self.waiting.lock().await.recv().await.ok_or_else(closed)
        })
    }

    fn local_url(&self) -> &TransportUrl {
        &self.url
    }
}

fn names<T>(with: impl FnOnce(&mut HashMap<String, Door>) -> T) -> T {
    with(&mut LISTENERS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn not_memory(url: &TransportUrl) -> TransportError {
    Incompatible::Transport { url: url.clone(), scheme: url.scheme() }.into()
}

/// A frame on its way, and its share of the queue's bytes.
type Parcel = (EncodedFrame, OwnedSemaphorePermit);

#[derive(Debug)]
struct MemorySender {
    queue: Option<mpsc::Sender<Parcel>>,
    window: Arc<Semaphore>,
    peer: String,
    patience: Duration,
    meter: Meter,
}

impl MemorySender {
    async fn put(&mut self, frame: EncodedFrame) -> Result<()> {
        let closed = || UsageError::Closed { peer: self.peer.clone() };
        let gone = || IoFault::Broken {
            peer: self.peer.clone(),
            source: io::Error::from(io::ErrorKind::BrokenPipe),
        };
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        let len = frame.head.len() + frame.payload.len();
        let grains = u32::try_from(len.div_ceil(GRAIN).clamp(1, QUEUE_GRAINS)).unwrap_or(u32::MAX);
        let room = async {
            tokio::select! {
                () = queue.closed() => Err(gone()),
                share = Arc::clone(&self.window).acquire_many_owned(grains) => match share {
                    Ok(share) => queue.reserve().await.map(|slot| (slot, share)).map_err(|_| gone()),
                    Err(_) => Err(gone()),
                },
            }
        };
        match self.meter.watch(Direction::Sent, timeout(self.patience, room)).await {
            Ok(Ok((slot, share))) => {
                slot.send((frame, share));
                Ok(())
            }
            Ok(Err(fault)) => Err(fault.into()),
            Err(_) => {
                let expected = u64::try_from(len).unwrap_or(u64::MAX);
                let (peer, which, after) = (self.peer.clone(), Deadline::Send, self.patience);
                Err(LimitExceeded::Deadline { peer, which, after, got: 0, expected }.into())
            }
        }
    }
}

impl FrameSender for MemorySender {
    fn send(&mut self, frame: EncodedFrame) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let bytes = frame.len();
            let sent = self.put(frame).await;
            self.meter.sent(bytes, sent)
        })
    }

    fn flush(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<()>> {
        self.queue = None;
        Box::pin(std::future::ready(Ok(())))
    }
}

struct MemoryInbox {
    queue: mpsc::Receiver<Parcel>,
    idle: IdleWait,
}

impl Inbox for MemoryInbox {
    type Payload = Parcel;

    async fn next(&mut self, intake: &mut Intake) -> Result<Option<(FrameHead, Parcel)>> {
        intake.give_way().await;
        let Some(parcel) = self.idle.wait(&intake.peer, self.queue.recv()).await? else {
            return Ok(None);
        };
        let header = intake.header(&parcel.0.head)?;
        let head = intake.head(header, parcel.0.head.get(Header::SIZE..).unwrap_or_default())?;
        Ok(Some((head, parcel)))
    }

    async fn take(
        &mut self,
        intake: &Intake,
        head: &FrameHead,
        (frame, _share): &mut Parcel,
    ) -> Result<Arrived> {
        let claim = intake.claim(crate::stream::memory_of(head)).await?;
        Ok(claim.attach(std::mem::take(&mut frame.payload)).into())
    }

    fn refuse(&mut self, _: &FrameHead, _: Parcel) {}

    async fn drain(&mut self, _: &Intake) -> Result<()> {
        while self.queue.recv().await.is_some() {}
        Ok(())
    }
}
