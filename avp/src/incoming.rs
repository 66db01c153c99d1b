//! Contexts on their way in, slab by slab (docs/spec/slabs.md, 8): the receiving side. What has come of a transfer is
//! kept for a while after its connection broke.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use avp_handshake::Reject;
use avp_wire::slab::{Ack, Delivery, Manifest, Received, Round, Slab, SlabError, TransferId};
use avp_wire::{ErrorCode, Frame, Limits, Metadata, ext};

use crate::outgoing::bytes_of;

/// Damaged slabs of a transfer before it is given up.
const MAX_DAMAGED: u32 = 16;

/// Where the slabs of a transfer go.
pub(crate) trait SlabSink: Send + Sized + 'static {
    /// What the transfer becomes.
    type Whole: Clone + Send;

    /// Takes a slab that was missing. Slabs come in any order.
    fn insert(&mut self, slab: &Slab) -> Result<(), Reject>;

    /// All slabs are there. May take its time: no lock is held.
    fn finish(self) -> Result<Self::Whole, Reject>;
}

/// One transfer.
struct Incoming<S: SlabSink> {
    metadata: Metadata,
    delivery: Delivery,
    state: State<S>,
    /// Slabs that came with another digest than their own.
    damaged: u32,
    /// When a slab or a question came last.
    used: Instant,
}

enum State<S: SlabSink> {
    Arriving(S),
    /// All slabs are there, and one thread makes the whole of them.
    Ending,
    Whole(S::Whole),
    /// The sink failed; nothing can come of the transfer.
    Failed(Reject),
}

/// A transfer that several connections of one sender may know.
pub(crate) type Shared<S> = Arc<Slot<S>>;

/// Where such a transfer lies.
pub(crate) struct Slot<S: SlabSink> {
    incoming: Mutex<Incoming<S>>,
    /// Woken when the whole was made, or could not be.
    ended: Condvar,
}

/// What to say to a slab.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// What is wrong with it, or with the whole transfer.
    pub(crate) refusal: Option<Reject>,
    /// What is missing now, where it is time to say so.
    pub(crate) ack: Option<Ack>,
    /// Whether the transfer has become whole by it.
    pub(crate) completed: bool,
}

impl<S: SlabSink> Slot<S> {
    fn new(incoming: Incoming<S>) -> Shared<S> {
        Arc::new(Self { incoming: Mutex::new(incoming), ended: Condvar::new() })
    }

    /// Takes a slab of `round`. Blocks, the longer if it is the last one.
    pub(crate) fn slab(&self, frame: &Frame, round: &mut Round) -> Answer {
        let mut incoming = self.lock();
        round.count();
        incoming.used = Instant::now();
        let refusal = incoming.take(frame).err();
        self.answer(incoming, refusal, round)
    }

    /// Counts a slab that came and could not be read. Blocks as [`slab`](Self::slab).
    pub(crate) fn lost(&self, round: &mut Round) -> Answer {
        let incoming = self.lock();
        round.count();
        self.answer(incoming, None, round)
    }

    /// Slabs that are there, slabs of the transfer, and bytes of its cache. Blocks.
    pub(crate) fn progress(&self) -> (u32, u32, u64) {
        let incoming = self.lock();
        let reassembly = incoming.delivery.reassembly();
        (reassembly.arrived(), reassembly.slab_count(), bytes_of(&reassembly.manifest().kv))
    }

    /// What the transfer became, as far as can be told without waiting.
    pub(crate) fn whole_now(&self) -> Option<Result<S::Whole, Reject>> {
        self.incoming.try_lock().ok()?.whole()
    }

    /// What the transfer became; `None` while slabs are missing. Blocks while it ends.
    pub(crate) fn whole(&self) -> Option<Result<S::Whole, Reject>> {
        self.until_ended(self.lock()).whole()
    }

    /// What the transfer became, or what `with` makes of its sink while slabs are missing. Blocks while it ends.
    pub(crate) fn whole_or<T>(&self, with: impl FnOnce(&mut S) -> T) -> Result<Result<S::Whole, Reject>, T> {
        let mut incoming = self.until_ended(self.lock());
        match &mut incoming.state {
            State::Arriving(sink) => Err(with(sink)),
            _ => Ok(incoming.whole().unwrap_or_else(|| Err(unended()))),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Incoming<S>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(
        &self,
        mut incoming: MutexGuard<'_, Incoming<S>>,
        refusal: Option<Reject>,
        round: &mut Round,
    ) -> Answer {
        let ack = incoming.advance(round);
        let is_complete = ack.as_ref().is_some_and(Ack::is_complete);
        let (incoming, completed) = if is_complete { self.end(incoming) } else { (incoming, false) };
        match &incoming.state {
            State::Failed(reject) => Answer { refusal: Some(reject.clone()), ack: None, completed: false },
            _ => Answer { refusal, ack, completed },
        }
    }

    /// Makes the whole of a transfer of which everything has come, or waits until another thread has. Says which.
    fn end<'a>(&'a self, mut incoming: MutexGuard<'a, Incoming<S>>) -> (MutexGuard<'a, Incoming<S>>, bool) {
        match std::mem::replace(&mut incoming.state, State::Ending) {
            State::Arriving(sink) => {
                drop(incoming);
                let ending = Ending(self);
                let state = sink.finish().map_or_else(State::Failed, State::Whole);
                self.lock().state = state;
                drop(ending);
                (self.lock(), true)
            }
            other => {
                incoming.state = other;
                (self.until_ended(incoming), false)
            }
        }
    }

    fn until_ended<'a>(&'a self, incoming: MutexGuard<'a, Incoming<S>>) -> MutexGuard<'a, Incoming<S>> {
        let is_ending = |incoming: &mut Incoming<S>| matches!(incoming.state, State::Ending);
        self.ended.wait_while(incoming, is_ending).unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transfer that ends. Whoever waits for it is woken, also where its end panics.
struct Ending<'a, S: SlabSink>(&'a Slot<S>);

impl<S: SlabSink> Drop for Ending<'_, S> {
    fn drop(&mut self) {
        let mut incoming = self.0.lock();
        if let State::Ending = incoming.state {
            incoming.state = State::Failed(unended());
        }
        self.0.ended.notify_all();
    }
}

fn unended() -> Reject {
    Reject::new(ErrorCode::Internal, "the transfer did not end")
}

impl<S: SlabSink> Incoming<S> {
    fn begin(
        frame: &Frame,
        manifest: Manifest,
        id: TransferId,
        sink: S,
        limits: &Limits,
    ) -> Result<Self, Reject> {
        let delivery = Delivery::new(manifest, id, limits).map_err(|e| refusal(&e))?;
        let state = State::Arriving(sink);
        Ok(Self { metadata: described(frame), delivery, state, damaged: 0, used: Instant::now() })
    }

    fn whole(&self) -> Option<Result<S::Whole, Reject>> {
        match &self.state {
            State::Arriving(_) | State::Ending => None,
            State::Whole(whole) => Some(Ok(whole.clone())),
            State::Failed(reject) => Some(Err(reject.clone())),
        }
    }

    fn take(&mut self, frame: &Frame) -> Result<(), Reject> {
        match self.delivery.insert(frame) {
            Ok(Received::New(slab)) => match &mut self.state {
                State::Arriving(sink) => {
                    let taken = sink.insert(&slab);
                    self.note(taken)
                }
                _ => Ok(()),
            },
            Ok(Received::Duplicate(_)) => Ok(()),
            // Damaged on its way: it is asked for again.
            Err(error @ SlabError::DigestMismatch(_)) => {
                self.damaged += 1;
                let spent = self.damaged > MAX_DAMAGED;
                self.note(if spent { Err(refusal(&error)) } else { Ok(()) })
            }
            Err(error) => Err(refusal(&error)),
        }
    }

    fn advance(&mut self, round: &mut Round) -> Option<Ack> {
        self.delivery.answer(round).unwrap_or_else(|error| {
            self.state = State::Failed(refusal(&error));
            None
        })
    }

    /// A failure of the sink is one of the whole transfer.
    fn note(&mut self, outcome: Result<(), Reject>) -> Result<(), Reject> {
        outcome.inspect_err(|reject| self.state = State::Failed(reject.clone()))
    }
}

/// Who sends a transfer, where that was shown, and its id. A peer that nobody has authenticated is known by the id alone.
pub(crate) type Key = (Option<String>, TransferId);

/// The transfers that are known.
pub(crate) struct Transfers<S: SlabSink> {
    known: Mutex<HashMap<Key, Known<S>>>,
    most: usize,
    most_bytes: u64,
    keep: Duration,
    limits: Limits,
}

struct Known<S: SlabSink> {
    shared: Shared<S>,
    /// Of the whole cache.
    bytes: u64,
    /// When it was last seen in use.
    used: Instant,
}

impl<S: SlabSink> Known<S> {
    /// Whether no connection has it.
    fn is_free(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }
}

impl<S: SlabSink> Transfers<S> {
    /// Knows at most `most` transfers of `most_bytes` together, each for `keep` after its last slab or question.
    pub(crate) fn new(most: usize, most_bytes: u64, keep: Duration, limits: Limits) -> Self {
        Self { known: Mutex::default(), most, most_bytes, keep, limits }
    }

    /// Takes a manifest from `sender`: the first of its transfer, for which `sink` is made, or the same again.
    pub(crate) fn manifest(
        &self,
        sender: Option<String>,
        frame: &Frame,
        sink: impl FnOnce(&Manifest, &TransferId) -> Result<S, Reject>,
    ) -> Result<(Shared<S>, Ack, Round), Reject> {
        let (manifest, id) = Manifest::from_frame(frame).map_err(|error| refusal(&error))?;
        let shared = self.known_or(sender, frame, manifest, id, sink)?;
        let (ack, round) = {
            let mut incoming = shared.lock();
            if incoming.metadata != described(frame) {
                return Err(refusal(&SlabError::OtherManifest));
            }
            incoming.used = Instant::now();
            let (ack, round) = incoming.delivery.begin(&manifest).map_err(|error| refusal(&error))?;
            let incoming = if ack.is_complete() { shared.end(incoming).0 } else { incoming };
            if let Some(Err(reject)) = incoming.whole() {
                return Err(reject);
            }
            (ack, round)
        };
        Ok((shared, ack, round))
    }

    /// Forgets transfers that have not been used for their time. For a timer: nothing else may come.
    pub(crate) fn sweep(&self) {
        self.sweep_in(&mut self.known());
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Known<S>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_or(
        &self,
        sender: Option<String>,
        frame: &Frame,
        manifest: Manifest,
        id: TransferId,
        sink: impl FnOnce(&Manifest, &TransferId) -> Result<S, Reject>,
    ) -> Result<Shared<S>, Reject> {
        let key = (sender, id.clone());
        let mut known = self.known();
        self.sweep_in(&mut known);
        if let Some(entry) = known.get(&key) {
            let has_failed = matches!(entry.shared.whole_now(), Some(Err(_)));
            if !has_failed {
                return Ok(Arc::clone(&entry.shared));
            }
            // What made it fail may be over.
            known.remove(&key);
        }
        let bytes = bytes_of(&manifest.kv);
        self.make_room(&mut known, bytes)?;
        let sink = sink(&manifest, &id)?;
        let incoming = Incoming::begin(frame, manifest, id, sink, &self.limits)?;
        let shared = Slot::new(incoming);
        known.insert(key, Known { shared: Arc::clone(&shared), bytes, used: Instant::now() });
        Ok(shared)
    }

    fn sweep_in(&self, known: &mut HashMap<Key, Known<S>>) {
        for entry in known.values_mut() {
            // One that is locked is in use.
            let incoming = entry.shared.incoming.try_lock();
            entry.used = incoming.map_or_else(|_| Instant::now(), |incoming| incoming.used);
        }
        known.retain(|_, entry| !entry.is_free() || entry.used.elapsed() < self.keep);
    }

    /// Forgets the longest unused transfers for one of `bytes`.
    fn make_room(&self, known: &mut HashMap<Key, Known<S>>, bytes: u64) -> Result<(), Reject> {
        loop {
            let held: u64 = known.values().fold(0, |sum, entry| sum.saturating_add(entry.bytes));
            if known.len() < self.most && held.saturating_add(bytes) <= self.most_bytes {
                return Ok(());
            }
            let free = known.iter().filter(|(_, entry)| entry.is_free());
            let Some(oldest) = free.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone()) else {
                return Err(Reject::new(ErrorCode::Busy, "no room for a further context; try again later"));
            };
            known.remove(&oldest);
        }
    }
}

pub(crate) fn refusal(error: &SlabError) -> Reject {
    Reject::new(error.code(), error.to_string())
}

/// What a manifest says of the context, whoever sends it in whatever session.
fn described(frame: &Frame) -> Metadata {
    let mut metadata = frame.metadata.clone();
    metadata.session_id.clear();
    metadata.source_agent_id.clear();
    metadata.target_agent_id.clear();
    metadata.payload_checksum = None;
    metadata.extra.remove(ext::PAD);
    metadata
}

#[cfg(test)]
mod tests;
