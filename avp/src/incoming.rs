//! Contexts on their way in, slab by slab (docs/spec/slabs.md, 8): the receiving side. What has come of a transfer is
//! kept for a while after its connection broke.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use avp_handshake::Reject;
use avp_wire::slab::{Ack, Delivery, Manifest, Received, Round, Slab, SlabError, TransferId};
use avp_wire::{ErrorCode, Frame, Limits, Metadata, ext};

use crate::outgoing::bytes_of;

mod transfers;

pub(crate) use transfers::{Key, Transfers};

/// Damaged slabs of a transfer before it is given up.
const MAX_DAMAGED: u32 = 16;

/// What the sender of a transfer hears that had to make room.
const GIVEN_UP: &str = "another peer that holds less got the place of this context; send it again later";

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

    /// Gives up a transfer that is not whole: its place goes to another.
    fn give_up(&self) {
        let mut incoming = self.lock();
        if let State::Arriving(_) = incoming.state {
            incoming.state = State::Failed(Reject::new(ErrorCode::Busy, GIVEN_UP));
        }
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
