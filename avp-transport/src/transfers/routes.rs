//! Which transfer takes which frames and streams.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use avp_wire::Frame;
use tokio::sync::{Notify, mpsc};

use crate::error::LimitExceeded;
use crate::link::{FrameReceiver, FrameSender, Result};

/// Frames that wait for one transfer before its lack of appetite holds up the others of its stream.
const LANE_FRAMES: usize = 16;
/// Ids of ended transfers that are remembered, so that their late frames are dropped and not taken for new ones.
const REMEMBERED: usize = 256;
/// Longest id that is taken from a peer.
const MAX_ID: usize = 64;

/// The routes of a connection, and who waits for news about them.
#[derive(Debug)]
pub(super) struct Board {
    routes: Mutex<Routes>,
    /// Woken when a transfer was begun by the peer, and at the end.
    pub(super) news: Notify,
}

impl Board {
    pub(super) fn new(limit: usize, has_streams: bool) -> Self {
        Self { routes: Mutex::new(Routes::new(limit, has_streams)), news: Notify::new() }
    }

    pub(super) fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self, how: End) {
        self.routes().over(how);
        self.news.notify_waiters();
    }
}

/// How the first stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Finished,
    Failed,
}

/// Where frames of a transfer on the first stream go.
pub(super) type Lane = mpsc::Sender<Result<Frame>>;

/// What comes in for one transfer: frames on the first stream, and streams of its own.
#[derive(Debug)]
pub(super) struct Inlet {
    pub(super) frames: mpsc::Receiver<Result<Frame>>,
    pub(super) streams: Option<mpsc::UnboundedReceiver<Box<dyn FrameReceiver>>>,
}

/// A transfer that the peer began.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) id: String,
    pub(super) inlet: Inlet,
    /// To answer on, where it came on a stream of its own.
    pub(super) sender: Option<Box<dyn FrameSender>>,
}

#[derive(Debug)]
struct Route {
    lane: Option<Lane>,
    /// At most as many wait here as the transport lets the peer have.
    streams: Option<mpsc::UnboundedSender<Box<dyn FrameReceiver>>>,
}

#[derive(Debug)]
pub(super) struct Routes {
    limit: usize,
    open: HashMap<String, Route>,
    begun: VecDeque<Begun>,
    ended: HashSet<String>,
    ended_order: VecDeque<String>,
    over: Option<End>,
    /// Further streams that the peer says it opened.
    announced: u64,
    /// Further streams that came, and were given to a transfer or refused.
    settled: u64,
    /// Whether further streams may come.
    streaming: bool,
}

impl Routes {
    fn new(limit: usize, has_streams: bool) -> Self {
        Self {
            limit,
            open: HashMap::new(),
            begun: VecDeque::new(),
            ended: HashSet::new(),
            ended_order: VecDeque::new(),
            over: None,
            announced: 0,
            settled: 0,
            streaming: has_streams,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.over == Some(End::Failed)
    }

    pub(super) fn is_known(&self, id: &str) -> bool {
        self.open.contains_key(id) || self.ended.contains(id)
    }

    pub(super) fn is_open(&self, id: &str) -> bool {
        self.open.contains_key(id)
    }

    pub(super) fn has_ended(&self, id: &str) -> bool {
        self.ended.contains(id)
    }

    pub(super) fn next_begun(&mut self) -> Option<Begun> {
        self.begun.pop_front()
    }

    /// How everything ended, streams included.
    pub(super) fn end_of_all(&self) -> Option<End> {
        match self.over? {
            End::Finished if self.settled < self.announced => {
                // Streams that were announced and can no longer come are lost.
                (!self.streaming).then_some(End::Failed)
            }
            how => Some(how),
        }
    }

    /// Makes a route for a new transfer.
    pub(super) fn begin(&mut self, id: &str) -> Result<Inlet, LimitExceeded> {
        if self.open.len() >= self.limit {
            return Err(LimitExceeded::Transfers { limit: self.limit });
        }
        let (lane, frames) = mpsc::channel(LANE_FRAMES);
        let (arrival, streams) = mpsc::unbounded_channel();
        let route =
            Route { lane: self.over.is_none().then_some(lane), streams: self.streaming.then_some(arrival) };
        self.open.insert(id.to_owned(), route);
        Ok(Inlet { frames, streams: self.streaming.then_some(streams) })
    }

    /// Where frames of this id on the first stream go; `None` if they are not wanted.
    pub(super) fn lane(&mut self, id: &str) -> Option<Lane> {
        if !self.open.contains_key(id) {
            let inlet = self.welcome(id)?;
            self.begun.push_back(Begun { id: id.to_owned(), inlet, sender: None });
        }
        self.open.get(id)?.lane.clone()
    }

    /// Gives a further stream to its transfer. `false` if it is not wanted.
    pub(super) fn attach(
        &mut self,
        id: &str,
        sender: Box<dyn FrameSender>,
        receiver: Box<dyn FrameReceiver>,
    ) -> bool {
        let mut main = Some(sender);
        if !self.open.contains_key(id) {
            let Some(inlet) = self.welcome(id).filter(|_| !id.is_empty()) else { return false };
            self.begun.push_back(Begun { id: id.to_owned(), inlet, sender: main.take() });
        }
        let arrivals = self.open.get(id).and_then(|route| route.streams.as_ref());
        arrivals.is_some_and(|arrivals| arrivals.send(receiver).is_ok())
    }

    fn welcome(&mut self, id: &str) -> Option<Inlet> {
        let refused = id.len() > MAX_ID || self.ended.contains(id) || self.has_failed();
        if refused { None } else { self.begin(id).ok() }
    }

    /// Counts a further stream that came.
    pub(super) fn settle(&mut self) {
        self.settled += 1;
        self.wind_up();
    }

    /// How many further streams the peer says it opened.
    pub(super) fn announce(&mut self, count: u64) {
        self.announced = self.announced.max(count);
    }

    /// No further stream will come.
    pub(super) fn streams_over(&mut self) {
        self.streaming = false;
        self.open.values_mut().for_each(|route| route.streams = None);
    }

    fn over(&mut self, how: End) {
        if self.over.is_none() || how == End::Failed {
            self.over = Some(how);
        }
        self.open.values_mut().for_each(|route| route.lane = None);
        self.wind_up();
    }

    fn wind_up(&mut self) {
        let all_came = self.over == Some(End::Finished) && self.settled >= self.announced;
        if all_came || self.has_failed() {
            self.streams_over();
        }
    }

    /// Ends a transfer from this side.
    pub(super) fn end(&mut self, id: &str) {
        if self.open.remove(id).is_some() && self.ended.insert(id.to_owned()) {
            self.ended_order.push_back(id.to_owned());
            if self.ended_order.len() > REMEMBERED
                && let Some(oldest) = self.ended_order.pop_front()
            {
                self.ended.remove(&oldest);
            }
        }
    }
}
