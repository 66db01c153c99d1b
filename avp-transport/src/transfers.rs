//! Several transfers at once over one ordered stream of frames: each frame goes to the transfer that its
//! `avp.transfer` names.
//!
//! There is no task in the background. Whoever waits for a frame reads for all: it routes what belongs to others and
//! hands the reading on when it has its own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use avp_wire::{EncodeOptions, Frame, ext};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::timeout;

use crate::connection::{Connection, Peer};
use crate::error::{Deadline, LimitExceeded, UsageError};
use crate::link::{FrameReceiver, FrameSender, Result};
use crate::options::Options;
use crate::work;

/// Frames that wait for one transfer before its lack of appetite holds up the others.
const LANE_FRAMES: usize = 16;
/// Ids of ended transfers that are remembered, so that their late frames are dropped and not taken for new ones.
const REMEMBERED: usize = 256;
/// Longest id that is taken from a peer.
const MAX_ID: usize = 64;

/// The transfers of a connection. Cheap to clone.
///
/// Frames without `avp.transfer` belong to the transfer with the empty id. Within a transfer frames keep their order.
/// Transfers should be received by tasks of their own: one that takes nothing holds up the others, and is ended after
/// `Limits::frame_timeout`.
#[derive(Clone, Debug)]
pub struct Transfers {
    shared: Arc<Shared>,
}

/// One of several transfers of a connection. Dropping it ends it; frames that still come for it are discarded.
#[derive(Debug)]
pub struct Transfer {
    id: String,
    frames: mpsc::Receiver<Result<Frame>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    peer: Peer,
    options: Options,
    sender: Mutex<Box<dyn FrameSender>>,
    inbox: Mutex<Inbox>,
    routes: StdMutex<Routes>,
    /// Woken when a transfer was begun by the peer, and at the end.
    news: Notify,
}

#[derive(Debug)]
struct Inbox {
    receiver: Box<dyn FrameReceiver>,
    /// A frame on its way into a full lane; here and not in a future, so that it outlives a cancelled wait.
    parked: Option<(String, mpsc::Sender<Result<Frame>>, Result<Frame>)>,
}

#[derive(Debug, Default)]
struct Routes {
    lanes: HashMap<String, mpsc::Sender<Result<Frame>>>,
    begun: VecDeque<(String, mpsc::Receiver<Result<Frame>>)>,
    ended: HashSet<String>,
    ended_order: VecDeque<String>,
    over: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Finished,
    Failed,
}

impl Transfers {
    /// Takes over a connection.
    #[must_use]
    pub fn over(connection: Connection) -> Self {
        let (peer, options) = (connection.peer().clone(), connection.options().clone());
        let (sender, receiver) = connection.split();
        let inbox = Mutex::new(Inbox { receiver, parked: None });
        let shared = Shared {
            peer,
            options,
            sender: Mutex::new(sender),
            inbox,
            routes: StdMutex::default(),
            news: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Begins a transfer from this side. `id` must be new to the connection.
    ///
    /// # Errors
    /// [`LimitExceeded::Transfers`] where too many are open, [`UsageError::NameInUse`] where the id is taken.
    pub fn open(&self, id: &str) -> Result<Transfer> {
        let mut routes = self.shared.routes();
        if routes.over.is_some() {
            return Err(self.shared.closed().into());
        }
        if routes.lanes.contains_key(id) || routes.ended.contains(id) {
            return Err(UsageError::NameInUse { name: id.to_owned() }.into());
        }
        let frames = routes.begin(id, self.shared.options.limits.max_concurrent_transfers)?;
        Ok(Transfer { id: id.to_owned(), frames, shared: Arc::clone(&self.shared) })
    }

    /// The next transfer that the peer begins; `None` once the peer has finished.
    ///
    /// # Errors
    /// As [`FrameReceiver::recv`].
    pub async fn accept(&self) -> Result<Option<Transfer>> {
        let shared = &self.shared;
        loop {
            let news = shared.news.notified();
            {
                let mut routes = shared.routes();
                if let Some((id, frames)) = routes.begun.pop_front() {
                    return Ok(Some(Transfer { id, frames, shared: Arc::clone(shared) }));
                }
                match routes.over {
                    Some(End::Finished) => return Ok(None),
                    Some(End::Failed) => return Err(shared.closed().into()),
                    None => {}
                }
            }
            tokio::select! {
                biased;
                () = news => {}
                mut inbox = shared.inbox.lock() => shared.route_one(&mut inbox).await?,
            }
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// Ends the sending side for all transfers; the peer's transfers then give `None`.
    ///
    /// # Errors
    /// As [`FrameSender::finish`].
    pub async fn finish(&self) -> Result<()> {
        self.shared.sender.lock().await.finish().await
    }
}

impl Transfer {
    /// Its id, which `avp.transfer` of its frames carries.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sends a frame of this transfer; `avp.transfer` is set. Frames of several transfers take turns.
    ///
    /// # Errors
    /// As [`Connection::send_frame`].
    pub async fn send(&self, mut frame: Frame, encoding: &EncodeOptions) -> Result<()> {
        if !self.id.is_empty() {
            frame.metadata.extra.insert(ext::TRANSFER.to_owned(), self.id.clone());
        }
        let encoded = work::encode(&frame, encoding, &self.shared.peer).await?;
        self.shared.sender.lock().await.send(encoded).await
    }

    /// The next frame of this transfer; `None` once the peer has finished. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`FrameReceiver::recv`]; a damaged frame is an error of its own transfer alone.
    pub async fn recv(&mut self) -> Result<Option<Frame>> {
        loop {
            tokio::select! {
                biased;
                frame = self.frames.recv() => return match frame {
                    Some(frame) => frame.map(Some),
                    None => self.shared.end_of_lane(),
                },
                mut inbox = self.shared.inbox.lock() => self.shared.route_one(&mut inbox).await?,
            }
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.shared.routes().end(&self.id);
    }
}

impl Shared {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed(&self) -> UsageError {
        UsageError::Closed { peer: self.peer.to_string() }
    }

    fn patience(&self) -> Duration {
        self.options.limits.frame_timeout
    }

    fn end_of_lane(&self) -> Result<Option<Frame>> {
        match self.routes().over {
            Some(End::Finished) => Ok(None),
            Some(End::Failed) => Err(self.closed().into()),
            // The lane was taken away because nobody received from it.
            None => {
                let (peer, after) = (self.peer.to_string(), self.patience());
                let which = Deadline::Transfer;
                Err(LimitExceeded::Deadline { peer, which, after, got: 0, expected: 0 }.into())
            }
        }
    }

    /// Reads one frame and brings it to its transfer.
    async fn route_one(&self, inbox: &mut Inbox) -> Result<()> {
        self.deliver(inbox).await;
        if self.routes().over.is_some() {
            return Ok(());
        }
        let id = match inbox.receiver.head().await {
            Ok(Some(head)) => head.metadata.extra.get(ext::TRANSFER).cloned().unwrap_or_default(),
            Ok(None) => {
                self.end(End::Finished);
                return Ok(());
            }
            Err(error) => return Err(self.failed(error)),
        };
        let Some(lane) = self.lane(&id) else {
            return inbox.receiver.refuse().await.map_err(|error| self.failed(error));
        };
        let frame = match inbox.receiver.payload().await {
            Err(error @ crate::TransportError::Limit(LimitExceeded::Memory { .. })) => return Err(error),
            Err(error) if !error.is_recoverable() => return Err(self.failed(error)),
            frame => frame,
        };
        inbox.parked = Some((id, lane, frame));
        self.deliver(inbox).await;
        Ok(())
    }

    async fn deliver(&self, inbox: &mut Inbox) {
        let Some((id, lane, _)) = &inbox.parked else {
            return;
        };
        match timeout(self.patience(), lane.clone().reserve_owned()).await {
            Ok(Ok(slot)) => {
                if let Some((_, _, frame)) = inbox.parked.take() {
                    slot.send(frame);
                }
                return;
            }
            // The transfer was dropped.
            Ok(Err(_)) => {}
            Err(_) => self.routes().end(id),
        }
        inbox.parked = None;
    }

    /// Where frames of this id go; `None` if they are not wanted.
    fn lane(&self, id: &str) -> Option<mpsc::Sender<Result<Frame>>> {
        let mut routes = self.routes();
        if let Some(lane) = routes.lanes.get(id) {
            return Some(lane.clone());
        }
        if id.len() > MAX_ID || routes.ended.contains(id) {
            return None;
        }
        let frames = routes.begin(id, self.options.limits.max_concurrent_transfers).ok()?;
        routes.begun.push_back((id.to_owned(), frames));
        self.news.notify_waiters();
        routes.lanes.get(id).cloned()
    }

    fn failed(&self, error: crate::TransportError) -> crate::TransportError {
        if !error.is_recoverable() {
            self.end(End::Failed);
        }
        error
    }

    fn end(&self, how: End) {
        let mut routes = self.routes();
        routes.over = Some(how);
        routes.lanes.clear();
        self.news.notify_waiters();
    }
}

impl Routes {
    fn begin(&mut self, id: &str, limit: usize) -> Result<mpsc::Receiver<Result<Frame>>, LimitExceeded> {
        if self.lanes.len() >= limit {
            return Err(LimitExceeded::Transfers { limit });
        }
        let (lane, frames) = mpsc::channel(LANE_FRAMES);
        self.lanes.insert(id.to_owned(), lane);
        Ok(frames)
    }

    fn end(&mut self, id: &str) {
        if self.lanes.remove(id).is_some() && self.ended.insert(id.to_owned()) {
            self.ended_order.push_back(id.to_owned());
            if self.ended_order.len() > REMEMBERED
                && let Some(oldest) = self.ended_order.pop_front()
            {
                self.ended.remove(&oldest);
            }
        }
    }
}
