//! The transfers that a receiver knows: so many of so many bytes, shared among their senders.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use avp_handshake::Reject;
use avp_transport::{Party, Peer};
use avp_wire::slab::{Ack, Manifest, Round, SlabError, TransferId};
use avp_wire::{ErrorCode, Frame, Limits};

use super::{Incoming, Shared, SlabSink, Slot, State, described, refusal};
use crate::outgoing::bytes_of;
use crate::places::{Holding, makes_room};

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
    party: Party,
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

    /// What it counts for when there is no room for one of `party`.
    fn holding(&self, key: &Key, counts: fn(u64) -> u64, newcomer: &Party) -> Holding<Key> {
        let is_free = self.is_free();
        // One that is locked is in use.
        let is_movable = self.shared.incoming.try_lock().is_ok_and(|incoming| match incoming.state {
            State::Arriving(_) => true,
            State::Ending => false,
            State::Whole(_) | State::Failed(_) => is_free,
        });
        let is_spare = is_free && self.party == *newcomer;
        let (key, size, party) = (key.clone(), counts(self.bytes), self.party.clone());
        Holding { key, party, size, used: self.used, is_movable, is_spare }
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
        sender: &Peer,
        frame: &Frame,
        sink: impl FnOnce(&Manifest, &Key) -> Result<S, Reject>,
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
        sender: &Peer,
        frame: &Frame,
        manifest: Manifest,
        id: TransferId,
        sink: impl FnOnce(&Manifest, &Key) -> Result<S, Reject>,
    ) -> Result<Shared<S>, Reject> {
        let key = (sender.identity().map(str::to_owned), id.clone());
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
        // What can never be taken is refused before others make room for it.
        let sink = sink(&manifest, &key)?;
        let party = Party::from(sender);
        self.make_room(&mut known, &party, bytes)?;
        let incoming = Incoming::begin(frame, manifest, id, sink, &self.limits)?;
        let shared = Slot::new(incoming);
        known.insert(key, Known { shared: Arc::clone(&shared), party, bytes, used: Instant::now() });
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

    /// Has others make room for a transfer of `bytes` that `party` sends.
    fn make_room(&self, known: &mut HashMap<Key, Known<S>>, party: &Party, bytes: u64) -> Result<(), Reject> {
        loop {
            let held = known.values().fold(0, |sum: u64, entry| sum.saturating_add(entry.bytes));
            let too_large = held.saturating_add(bytes) > self.most_bytes;
            let counts: fn(u64) -> u64 = match (known.len() >= self.most, too_large) {
                (true, _) => |_| 1,
                (false, true) => |bytes| bytes,
                (false, false) => return Ok(()),
            };
            let holdings: Vec<_> =
                known.iter().map(|(key, entry)| entry.holding(key, counts, party)).collect();
            let Some(displaced) = makes_room(&holdings, party, counts(bytes)).cloned() else {
                return Err(Reject::new(ErrorCode::Busy, "no room for a further context; try again later"));
            };
            if let Some(displaced) = known.remove(&displaced) {
                displaced.shared.give_up();
            }
        }
    }
}
