//! Contexts on their way in, slab by slab (docs/spec/slabs.md, 8): the receiving side. What has come of a transfer is
//! kept for a while after its connection broke.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use avp_handshake::Reject;
use avp_wire::slab::{Ack, Delivery, Manifest, Received, Slab, SlabError, TransferId};
use avp_wire::{ErrorCode, Frame, Limits, Metadata, ext};
use moka::sync::Cache;

use crate::outgoing::bytes_of;

/// Damaged slabs of a transfer before it is given up.
const MAX_DAMAGED: u32 = 16;

/// Where the slabs of a transfer go.
pub(crate) trait SlabSink: Send + Sized + 'static {
    /// What the transfer becomes.
    type Whole: Clone + Send;

    /// Takes a slab that was missing. Slabs come in any order.
    fn insert(&mut self, slab: &Slab) -> Result<(), Reject>;

    /// All slabs are there.
    fn finish(self) -> Result<Self::Whole, Reject>;
}

/// One transfer.
pub(crate) struct Incoming<S: SlabSink> {
    metadata: Metadata,
    delivery: Delivery,
    state: State<S>,
    /// Slabs that came with another digest than their own.
    damaged: u32,
}

enum State<S: SlabSink> {
    Arriving(S),
    Whole(S::Whole),
    /// The sink failed; nothing can come of the transfer.
    Failed(Reject),
}

/// A transfer that several connections of one sender may know.
pub(crate) type Shared<S> = Arc<Mutex<Incoming<S>>>;

impl<S: SlabSink> Incoming<S> {
    fn begin(
        frame: &Frame,
        manifest: Manifest,
        id: TransferId,
        sink: S,
        limits: &Limits,
    ) -> Result<Self, Reject> {
        let delivery = Delivery::new(manifest, id, limits).map_err(|e| refusal(&e))?;
        Ok(Self { metadata: described(frame), delivery, state: State::Arriving(sink), damaged: 0 })
    }

    /// Takes a slab; gives the ack that is due.
    pub(crate) fn slab(&mut self, frame: &Frame) -> Result<Option<Ack>, Reject> {
        match self.delivery.insert(frame) {
            Ok(Received::New(slab)) => {
                if let State::Arriving(sink) = &mut self.state {
                    let taken = sink.insert(&slab);
                    self.note(taken)?;
                }
            }
            Ok(Received::Duplicate(_)) => {}
            // Damaged on its way: it is asked for again.
            Err(error @ SlabError::DigestMismatch(_)) => self.count_damage(&error)?,
            Err(error) => return Err(refusal(&error)),
        }
        self.answer()
    }

    /// Counts a slab that came and could not be read; gives the ack that is due.
    pub(crate) fn lost(&mut self) -> Result<Option<Ack>, Reject> {
        self.delivery.lost();
        self.answer()
    }

    /// Slabs that are there, slabs of the transfer, and bytes of its cache.
    pub(crate) fn progress(&self) -> (u32, u32, u64) {
        let reassembly = self.delivery.reassembly();
        let bytes = bytes_of(&reassembly.manifest().kv);
        (reassembly.arrived(), reassembly.slab_count(), bytes)
    }

    /// Where slabs go, while some are missing.
    pub(crate) fn sink(&mut self) -> Option<&mut S> {
        match &mut self.state {
            State::Arriving(sink) => Some(sink),
            _ => None,
        }
    }

    /// What the transfer became; `None` while slabs are missing.
    pub(crate) fn whole(&self) -> Option<Result<S::Whole, Reject>> {
        match &self.state {
            State::Arriving(_) => None,
            State::Whole(whole) => Some(Ok(whole.clone())),
            State::Failed(reject) => Some(Err(reject.clone())),
        }
    }

    fn count_damage(&mut self, error: &SlabError) -> Result<(), Reject> {
        self.damaged += 1;
        let spent = self.damaged > MAX_DAMAGED;
        self.note(if spent { Err(refusal(error)) } else { Ok(()) })
    }

    fn answer(&mut self) -> Result<Option<Ack>, Reject> {
        if let State::Failed(reject) = &self.state {
            return Err(reject.clone());
        }
        let answer = self.delivery.answer().map_err(|error| refusal(&error));
        self.note(answer.as_ref().map(drop).map_err(Clone::clone))?;
        let answer = answer?;
        if answer.as_ref().is_some_and(Ack::is_complete) {
            self.complete()?;
        }
        Ok(answer)
    }

    fn complete(&mut self) -> Result<(), Reject> {
        let ending = State::Failed(Reject::new(ErrorCode::Internal, "the transfer did not end"));
        self.state = match std::mem::replace(&mut self.state, ending) {
            State::Arriving(sink) => match sink.finish() {
                Ok(whole) => State::Whole(whole),
                Err(reject) => State::Failed(reject),
            },
            other => other,
        };
        match &self.state {
            State::Failed(reject) => Err(reject.clone()),
            _ => Ok(()),
        }
    }

    /// A failure of the whole transfer is kept: its sender hears it again when it comes back.
    fn note(&mut self, outcome: Result<(), Reject>) -> Result<(), Reject> {
        outcome.inspect_err(|reject| self.state = State::Failed(reject.clone()))
    }
}

/// The transfers that are known, by who sends them. A peer that nobody has authenticated is known by the transfer's id
/// alone.
pub(crate) struct Transfers<S: SlabSink> {
    known: Cache<(Option<String>, TransferId), Shared<S>>,
    limits: Limits,
}

impl<S: SlabSink> Transfers<S> {
    /// Keeps at most `most` transfers, each for `keep` after its last frame.
    pub(crate) fn new(most: u64, keep: Duration, limits: Limits) -> Self {
        Self { known: Cache::builder().max_capacity(most).time_to_idle(keep).build(), limits }
    }

    /// Takes a manifest from `sender`: the first of its transfer, for which `sink` is made, or the same again.
    pub(crate) fn manifest(
        &self,
        sender: Option<String>,
        frame: &Frame,
        sink: impl FnOnce(&Manifest, &TransferId) -> Result<S, Reject>,
    ) -> Result<(Shared<S>, Ack), Reject> {
        let (manifest, id) = Manifest::from_frame(frame).map_err(|error| refusal(&error))?;
        let key = (sender, id.clone());
        let made = self.known.try_get_with(key.clone(), || {
            let sink = sink(&manifest, &id)?;
            Incoming::begin(frame, manifest, id, sink, &self.limits).map(|new| Arc::new(Mutex::new(new)))
        });
        let shared = made.map_err(|reject: Arc<Reject>| Arc::unwrap_or_clone(reject))?;
        let ack = {
            let mut incoming = lock(&shared);
            if incoming.metadata != described(frame) {
                return Err(refusal(&SlabError::OtherManifest));
            }
            let ack = incoming.delivery.begin(&manifest).map_err(|error| refusal(&error))?;
            if ack.is_complete() {
                incoming.complete()?;
            }
            ack
        };
        Ok((shared, ack))
    }
}

pub(crate) fn lock<S: SlabSink>(shared: &Mutex<Incoming<S>>) -> MutexGuard<'_, Incoming<S>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
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
