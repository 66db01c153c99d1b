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
use crate::places::{Holding, Room};

/// Who sends a transfer, where that was shown, and its id. A peer that nobody has authenticated is known by the id alone.
pub(crate) type Key = (Option<String>, TransferId);

/// The transfers that are known.
pub(crate) struct Transfers<S: SlabSink> {
    known: Mutex<HashMap<Key, Known<S>>>,
    room: Room,
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
    fn holding(&self, key: &Key, newcomer: &Party) -> Holding<Key> {
        let is_free = self.is_free();
        // One that is locked is in use.
        let is_movable = self.shared.incoming.try_lock().is_ok_and(|incoming| match incoming.state {
            State::Arriving(_) => true,
            State::Ending => false,
            State::Whole(_) | State::Failed(_) => is_free,
        });
        let is_spare = is_free && self.party == *newcomer;
        let (key, party) = (key.clone(), self.party.clone());
        Holding { key, party, bytes: self.bytes, used: self.used, is_movable, is_spare }
    }
}

impl<S: SlabSink> Transfers<S> {
    /// Knows transfers for which there is `room`, each for `keep` after its last slab or question.
    pub(crate) fn new(room: Room, keep: Duration, limits: Limits) -> Self {
        Self { known: Mutex::default(), room, keep, limits }
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
        if !self.room.could_hold(bytes) {
            return Err(no_room());
        }
        let sink = sink(&manifest, &key)?;
        let incoming = Incoming::begin(frame, manifest, id, sink, &self.limits)?;
        let party = Party::from(sender);
        self.make_room(&mut known, &party, bytes)?;
        let shared = Slot::new(incoming);
        known.insert(key, Known { shared: Arc::clone(&shared), party, bytes, used: Instant::now() });
        Ok(shared)
    }

    fn sweep_in(&self, known: &mut HashMap<Key, Known<S>>) {
        for entry in known.values_mut() {
            let is_free = entry.is_free();
            entry.used = entry.shared.incoming.try_lock().map_or_else(
                // One that is locked is in use.
                |_| Instant::now(),
                |mut incoming| {
                    // One that is whole is asked about for as long as a connection has it.
                    if !is_free && incoming.whole().is_some() {
                        incoming.used = Instant::now();
                    }
                    incoming.used
                },
            );
        }
        known.retain(|_, entry| !entry.is_free() || entry.used.elapsed() < self.keep);
    }

    /// Has others make room for a transfer of `bytes` that `party` sends.
    fn make_room(&self, known: &mut HashMap<Key, Known<S>>, party: &Party, bytes: u64) -> Result<(), Reject> {
        let holdings = known.iter().map(|(key, entry)| entry.holding(key, party)).collect();
        for displaced in self.room.made_for(party, bytes, holdings).ok_or_else(no_room)? {
            if let Some(displaced) = known.remove(&displaced) {
                displaced.shared.give_up();
            }
        }
        Ok(())
    }
}

fn no_room() -> Reject {
    Reject::new(ErrorCode::Busy, "no room for a further context; try again later")
}
