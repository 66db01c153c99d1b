//! What the transfers of a connection share: its first stream, and the way to further ones.

#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};
use std::time::Duration;

use avp_wire::{EncodeOptions, Frame, Metadata, ext};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::arrivals::Arrivals;
use super::routes::{Begun, Board, End, Lane};
use super::transfer::Outlet;
use crate::connection::{Connection, Peer};
#[cfg(target_os = "linux")]
use crate::descriptors::Passed;
use crate::error::{Deadline, LimitExceeded, TransportError, UsageError};
use crate::link::{FrameReceiver, FrameSender, Halves, Result, Streams};
use crate::options::Options;
use crate::telemetry::{Direction, Meter};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) peer: Peer,
    options: Options,
    pub(super) meter: Meter,
    pub(super) board: Arc<Board>,
    pub(super) sender: Mutex<Box<dyn FrameSender>>,
    inbox: Mutex<Inbox>,
    streams: Option<Arc<dyn Streams>>,
    #[cfg(target_os = "linux")]
    passed: Option<Arc<Passed>>,
    /// Descriptors that this side passed, and the token of the next.
    #[cfg(target_os = "linux")]
    next_token: AtomicU64,
    /// Streams that this side opened.
    opened: AtomicU64,
    finished: AtomicBool,
    /// Sending halves of transfers with streams of their own, to finish them all.
    outlets: StdMutex<Vec<Weak<Outlet>>>,
    _arrivals: Option<Arrivals>,
}

#[derive(Debug)]
struct Inbox {
    receiver: Box<dyn FrameReceiver>,
    /// A frame on its way into a full lane; here and not in a future, so that it outlives a cancelled wait.
    parked: Option<(String, Lane, Result<Frame>)>,
}

impl Shared {
    pub(super) fn over(connection: Connection) -> Self {
        let (peer, options) = (connection.peer().clone(), connection.options().clone());
        let (streams, meter) = (connection.streams(), connection.meter().clone());
        #[cfg(target_os = "linux")]
        let passed = connection.passed();
        let (sender, receiver) = connection.split();
        let board = Arc::new(Board::new(options.limits.max_concurrent_transfers, streams.is_some()));
        let arrivals = streams.clone().map(|streams| {
            let (patience, refusals) = (options.limits.frame_timeout, options.budgets.rejects);
            Arrivals::start(streams, Arc::clone(&board), patience, refusals)
        });
        Self {
            peer,
            options,
            meter,
            board,
            sender: Mutex::new(sender),
            inbox: Mutex::new(Inbox { receiver, parked: None }),
            streams,
            #[cfg(target_os = "linux")]
            passed,
            #[cfg(target_os = "linux")]
            next_token: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            outlets: StdMutex::default(),
            _arrivals: arrivals,
        }
    }

    pub(super) fn has_streams(&self) -> bool {
        self.streams.is_some()
    }

    #[cfg(target_os = "linux")]
    pub(super) fn passed(&self) -> Option<&Passed> {
        self.passed.as_deref()
    }

    /// Passes a descriptor beside the frames of the first stream, and gives its token.
    #[cfg(target_os = "linux")]
    pub(super) async fn pass(&self, descriptor: OwnedFd) -> Result<u64> {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        if self.sender.lock().await.pass(token, descriptor).await? {
            return Ok(token);
        }
        Err(UsageError::NoDescriptors { peer: self.peer.to_string() }.into())
    }

    pub(super) fn closed(&self) -> UsageError {
        UsageError::Closed { peer: self.peer.to_string() }
    }

    pub(super) fn deadline(&self, which: Deadline) -> LimitExceeded {
        let (peer, after) = (self.peer.to_string(), self.patience());
        LimitExceeded::Deadline { peer, which, after, got: 0, expected: 0 }
    }

    fn patience(&self) -> Duration {
        self.options.limits.frame_timeout
    }

    /// Remembers an outlet, to be finished with all others.
    pub(super) fn enlist(&self, outlet: &Arc<Outlet>) {
        let mut outlets = self.outlets.lock().unwrap_or_else(PoisonError::into_inner);
        outlets.retain(|outlet| outlet.strong_count() > 0);
        outlets.push(Arc::downgrade(outlet));
    }

    /// Opens a further stream.
    pub(super) async fn open_stream(&self) -> Result<Halves> {
        let Some(streams) = self.streams.as_ref().filter(|_| !self.finished.load(Ordering::Relaxed)) else {
            return Err(self.closed().into());
        };
        let opening = self.meter.watch(Direction::Sent, timeout(self.patience(), streams.open())).await;
        let stream = opening.unwrap_or_else(|_| Err(self.deadline(Deadline::Send).into()))?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(stream)
    }

    pub(super) async fn accept(&self) -> Result<Option<Begun>> {
        loop {
            let mut news = std::pin::pin!(self.board.news.notified());
            news.as_mut().enable();
            let reading = {
                let mut routes = self.board.routes();
                if let Some(begun) = routes.next_begun() {
                    return Ok(Some(begun));
                }
                match routes.end_of_all() {
                    Some(End::Finished) => return Ok(None),
                    Some(End::Failed) => return Err(self.closed().into()),
                    None => !routes.is_over(),
                }
            };
            tokio::select! {
                biased;
                () = news => {}
                routed = self.route_one(), if reading => routed?,
            }
        }
    }

    pub(super) async fn finish(&self) -> Result<()> {
        self.finished.store(true, Ordering::Relaxed);
        let outlets = std::mem::take(&mut *self.outlets.lock().unwrap_or_else(PoisonError::into_inner));
        for outlet in outlets.iter().filter_map(Weak::upgrade) {
            outlet.finish().await?;
        }
        let opened = self.opened.load(Ordering::Relaxed);
        let mut sender = self.sender.lock().await;
        if opened > 0 {
            // The end of this stream may overtake the others.
            let note = streams_note("", opened).encode(&EncodeOptions::default());
            sender.feed(note.map_err(UsageError::Encode)?).await?;
        }
        sender.finish().await
    }

    /// Reads one frame off the first stream and brings it to its transfer. Dropping the future loses nothing.
    pub(super) async fn route_one(&self) -> Result<()> {
        let mut inbox = self.inbox.lock().await;
        self.deliver(&mut inbox).await;
        if self.board.routes().is_over() {
            return Ok(());
        }
        let head = match inbox.receiver.head().await {
            Ok(Some(head)) => head,
            Ok(None) => {
                self.board.end(End::Finished);
                return Ok(());
            }
            Err(error) => return Err(self.failed(error)),
        };
        if let Some(count) = streams_announced(&head.metadata) {
            self.board.routes().announce(count);
            return inbox.receiver.payload().await.map(drop).map_err(|error| self.failed(error));
        }
        let id = head.metadata.extra.get(ext::TRANSFER).cloned().unwrap_or_default();
        let lane = self.board.routes().lane(&id);
        let Some(lane) = lane else {
            // What was on its way when this side ended the transfer is nobody's fault.
            if self.board.routes().has_ended(&id) {
                return match inbox.receiver.payload().await {
                    Err(error) if !error.is_recoverable() => Err(self.failed(error)),
                    Err(TransportError::Limit(LimitExceeded::Memory { .. })) => {
                        inbox.receiver.refuse().await.map_err(|error| self.failed(error))
                    }
                    _ => Ok(()),
                };
            }
            return inbox.receiver.refuse().await.map_err(|error| self.failed(error));
        };
        self.board.news.notify_waiters();
        let frame = match inbox.receiver.payload().await {
            // It would stay pending, and hold up the others.
            Err(error @ TransportError::Limit(LimitExceeded::Memory { .. })) => {
                inbox.receiver.refuse().await.map_err(|error| self.failed(error))?;
                Err(error)
            }
            Err(error) if !error.is_recoverable() => return Err(self.failed(error)),
            frame => frame,
        };
        inbox.parked = Some((id, lane, frame));
        self.deliver(&mut inbox).await;
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
            Err(_) => self.board.routes().end(id),
        }
        inbox.parked = None;
    }

    fn failed(&self, error: TransportError) -> TransportError {
        if !error.is_recoverable() {
            self.board.end(End::Failed);
        }
        error
    }

    /// How a transfer ends whose every source has ended.
    pub(super) fn end_of_transfer(&self, id: &str) -> Result<Option<Frame>> {
        let routes = self.board.routes();
        if routes.has_failed() {
            Err(self.closed().into())
        } else if routes.is_over() || routes.is_open(id) {
            Ok(None)
        } else {
            // The route was taken away because nobody received from it.
            drop(routes);
            Err(self.deadline(Deadline::Transfer).into())
        }
    }
}

/// A frame that says how many further streams its sender has opened: on the first stream in all, on a transfer's for that
/// transfer.
pub(super) fn streams_note(transfer: &str, count: u64) -> Frame {
    let mut metadata = Metadata::default();
    metadata.extra.insert(ext::STREAMS.to_owned(), count.to_string());
    if !transfer.is_empty() {
        metadata.extra.insert(ext::TRANSFER.to_owned(), transfer.to_owned());
    }
    Frame::new(metadata, Vec::new())
}

/// What such a frame says.
pub(super) fn streams_announced(metadata: &Metadata) -> Option<u64> {
    metadata.extra.get(ext::STREAMS)?.parse().ok()
}
