//! Memory for the bodies of requests, of all connections of a listener together.
//!
//! A body is charged as its bytes arrive, and for what of it may be in a connection's buffers. Where memory
//! runs out the peer that holds the most pays for it, first with its bodies that have come to a stop, then with its
//! youngest. So no body waits for memory that others keep, the oldest always go on, and neither a peer that holds little
//! nor an honest client beside an attacker at the same address is shut out.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::LimitExceeded;
use crate::half_open::PeerKey;

/// A body that has not brought as much as this for [`STOP`] has come to a stop.
const PACE: u64 = 64 << 10;
const STOP: Duration = Duration::from_secs(2);

/// What the bodies of one listener may take together. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Bodies {
    budget: u64,
    ledger: Arc<Mutex<Ledger>>,
}

#[derive(Debug, Default)]
struct Ledger {
    held: u64,
    last: u64,
    /// By age.
    bodies: BTreeMap<u64, Entry>,
    peers: HashMap<PeerKey, u64>,
}

#[derive(Debug)]
struct Entry {
    peer: PeerKey,
    held: u64,
    /// Bytes that had come when it last kept pace, and when that was.
    paced: (u64, Instant),
    /// Told to make room; `None` once all has come, when nobody would listen.
    leave: Option<Arc<Notify>>,
}

impl Bodies {
    pub(crate) fn new(budget: u64) -> Self {
        Self { budget, ledger: Arc::default() }
    }

    /// A body of `peer` that is about to come; nothing is charged for it yet.
    pub(crate) fn begin(&self, peer: PeerKey) -> Room {
        let leave = Arc::new(Notify::new());
        let mut ledger = self.ledger();
        ledger.last += 1;
        let id = ledger.last;
        let paced = (0, Instant::now());
        ledger.bodies.insert(id, Entry { peer, held: 0, paced, leave: Some(Arc::clone(&leave)) });
        Room { bodies: self.clone(), id, leave }
    }

    /// Most that one body can take.
    pub(crate) fn budget(&self) -> u64 {
        self.budget
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    fn held(&self) -> u64 {
        self.ledger().held
    }
}

/// What one body takes; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Room {
    bodies: Bodies,
    id: u64,
    leave: Arc<Notify>,
}

impl Room {
    /// Says that `came` bytes of the body have come, and charges `held` for it in all, or leaves it at more. Others may
    /// have to make room.
    ///
    /// # Errors
    /// This body has to, or had to before; nothing is charged for it then.
    pub(crate) fn hold(&self, came: u64, held: u64) -> Result<(), LimitExceeded> {
        let mut ledger = self.bodies.ledger();
        if let Some(entry) = ledger.bodies.get_mut(&self.id)
            && came >= entry.paced.0.saturating_add(PACE)
        {
            entry.paced = (came, Instant::now());
        }
        let more = match ledger.bodies.get(&self.id) {
            Some(entry) => held.saturating_sub(entry.held),
            None => return Err(self.refusal(&ledger, held)),
        };
        while ledger.held.saturating_add(more) > self.bodies.budget {
            let victim = ledger.victim(self.id, more);
            if victim == self.id {
                let refusal = self.refusal(&ledger, held);
                ledger.remove(self.id);
                return Err(refusal);
            }
            ledger.remove(victim);
        }
        ledger.charge(self.id, more);
        Ok(())
    }

    /// Charges `more`, for what is made of the body.
    ///
    /// # Errors
    /// As [`hold`](Self::hold).
    pub(crate) fn hold_more(&self, more: u64) -> Result<(), LimitExceeded> {
        let held = self.bodies.ledger().bodies.get(&self.id).map_or(0, |entry| entry.held);
        self.hold(0, held.saturating_add(more))
    }

    /// Says that all has come, and that `held` bytes are kept of it; they are no more taken away.
    pub(crate) fn complete(&self, held: u64) {
        let mut ledger = self.bodies.ledger();
        let Some(entry) = ledger.bodies.get_mut(&self.id) else { return };
        entry.leave = None;
        let less = entry.held.saturating_sub(held);
        ledger.release(self.id, less);
    }

    /// Resolves when this body had to make room for another.
    pub(crate) async fn taken(&self) -> LimitExceeded {
        self.leave.notified().await;
        self.refusal(&self.bodies.ledger(), 0)
    }

    fn refusal(&self, ledger: &Ledger, needed: u64) -> LimitExceeded {
        LimitExceeded::Bodies { needed, held: ledger.held, budget: self.bodies.budget }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.bodies.ledger().remove(self.id);
    }
}

impl Ledger {
    /// Which body makes room so that `asking` gets `more`: it may be that one.
    fn victim(&self, asking: u64, more: u64) -> u64 {
        let Some(asker) = self.bodies.get(&asking) else { return asking };
        let would_hold = |peer: &PeerKey, held: u64| if *peer == asker.peer { held + more } else { held };
        let asker_holds = self.peers.get(&asker.peer).copied().unwrap_or_default() + more;
        // What is complete stays, so that those who have nothing else pay nothing.
        let can_pay = |peer: &PeerKey| {
            let mut theirs = self.bodies.values().filter(|entry| entry.peer == *peer);
            *peer == asker.peer || theirs.any(|entry| entry.leave.is_some() && entry.held > 0)
        };
        let payers = self.peers.iter().filter(|(peer, _)| can_pay(peer));
        let greediest = payers.max_by_key(|(peer, held)| would_hold(peer, **held));
        let peer = match greediest {
            Some((peer, held)) if would_hold(peer, *held) > asker_holds => peer,
            _ => &asker.peer,
        };
        let arriving =
            || self.bodies.iter().filter(|(_, entry)| entry.leave.is_some() && entry.peer == *peer);
        let stopped = arriving()
            .filter(|(id, entry)| **id != asking && entry.held > 0 && entry.paced.1.elapsed() >= STOP)
            .min_by_key(|(_, entry)| entry.paced.1);
        let victim = stopped.or_else(|| arriving().rfind(|(id, entry)| **id == asking || entry.held > 0));
        victim.map_or(asking, |(id, _)| *id)
    }

    fn charge(&mut self, id: u64, more: u64) {
        let Some(entry) = self.bodies.get_mut(&id) else { return };
        entry.held += more;
        self.held += more;
        *self.peers.entry(entry.peer.clone()).or_default() += more;
    }

    fn release(&mut self, id: u64, less: u64) {
        let Some(entry) = self.bodies.get_mut(&id) else { return };
        entry.held = entry.held.saturating_sub(less);
        self.held = self.held.saturating_sub(less);
        if let Some(held) = self.peers.get_mut(&entry.peer) {
            *held = held.saturating_sub(less);
            if *held == 0 {
                self.peers.remove(&entry.peer);
            }
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(held) = self.bodies.get(&id).map(|entry| entry.held) else { return };
        self.release(id, held);
        if let Some(leave) = self.bodies.remove(&id).and_then(|entry| entry.leave) {
            leave.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use tokio::time::{advance, timeout};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn key(last: u8) -> PeerKey {
        PeerKey::from(IpAddr::from([10, 0, 0, last]))
    }

    async fn was_taken(room: &Room) -> bool {
        timeout(Duration::from_millis(1), room.taken()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_body_held_comes_back_when_it_is_dropped_and_nothing_is_kept_of_its_peer() {
        let bodies = Bodies::new(10 * MIB);
        for _ in 0..1000 {
            let room = bodies.begin(key(1));
            room.hold(MIB, 7 * MIB).unwrap();
            room.complete(6 * MIB);
            assert_eq!(bodies.held(), 6 * MIB);
            assert_eq!(
                bodies.begin(key(2)).hold(0, 11 * MIB).map_err(|error| error.code()),
                Err(avp_wire::ErrorCode::Busy)
            );
        }
        let ledger = bodies.ledger();
        assert!(ledger.held == 0 && ledger.bodies.is_empty() && ledger.peers.is_empty());
    }

    // spec: http 5.9
    #[tokio::test(start_paused = true)]
    async fn the_youngest_makes_room_for_those_before_it_so_that_the_oldest_goes_on() {
        let bodies = Bodies::new(10 * MIB);
        let [first, second, third] = [0; 3].map(|_| bodies.begin(key(1)));
        for room in [&first, &second, &third] {
            room.hold(3 * MIB, 3 * MIB).unwrap();
        }
        first.hold(6 * MIB, 6 * MIB).unwrap();
        assert!(was_taken(&third).await && !was_taken(&second).await);
        assert!(third.hold(4 * MIB, 4 * MIB).is_err(), "it is gone for good");
        assert!(second.hold(5 * MIB, 5 * MIB).is_err(), "the first one is older");
        first.hold(10 * MIB, 10 * MIB).unwrap();
    }

    // spec: http 5.9
    #[tokio::test(start_paused = true)]
    async fn where_the_greediest_has_complete_ones_alone_the_next_makes_room() {
        let bodies = Bodies::new(10 * MIB);
        let [complete, stopped, asking] = [1, 2, 3].map(|peer| bodies.begin(key(peer)));
        complete.hold(6 * MIB, 6 * MIB).unwrap();
        complete.complete(6 * MIB);
        stopped.hold(3 * MIB, 3 * MIB).unwrap();
        advance(STOP).await;
        asking.hold(2 * MIB, 2 * MIB).unwrap();
        assert!(was_taken(&stopped).await);
    }

    // spec: http 5.9
    #[tokio::test(start_paused = true)]
    async fn a_body_that_has_come_to_a_stop_makes_room_for_a_newer_one() {
        let bodies = Bodies::new(10 * MIB);
        let [stopped, going] = [0; 2].map(|_| bodies.begin(key(1)));
        stopped.hold(5 * MIB, 5 * MIB).unwrap();
        going.hold(4 * MIB, 4 * MIB).unwrap();
        let newer = bodies.begin(key(1));
        assert!(newer.hold(0, 2 * MIB).is_err(), "none has stopped yet");
        advance(STOP).await;
        // A trickle is no pace.
        stopped.hold(5 * MIB + 1, 5 * MIB + 1).unwrap();
        going.hold(5 * MIB - 1, 5 * MIB - 1).unwrap();
        let newer = bodies.begin(key(1));
        newer.hold(0, 2 * MIB).unwrap();
        assert!(was_taken(&stopped).await && !was_taken(&going).await);
    }

    // spec: http 5.9
    #[tokio::test(start_paused = true)]
    async fn the_peer_that_holds_the_most_makes_room_for_the_others() {
        let bodies = Bodies::new(10 * MIB);
        let honest = bodies.begin(key(1));
        honest.hold(MIB, MIB).unwrap();
        let greedy: Vec<Room> = (0..9).map(|_| bodies.begin(key(2))).collect();
        for room in &greedy {
            room.hold(MIB, MIB).unwrap();
        }
        for held in 2..=5 {
            honest.hold(held * MIB, held * MIB).unwrap();
        }
        assert!(was_taken(&greedy[8]).await && !was_taken(&greedy[4]).await);
        // Both hold the same now: who asks for more holds the most.
        assert!(honest.hold(6 * MIB, 6 * MIB).is_err());
        for room in &greedy[..5] {
            room.complete(MIB);
        }
        bodies.begin(key(1)).hold(5 * MIB, 5 * MIB).unwrap();
        let late = bodies.begin(key(3));
        late.hold(0, MIB).map(drop).unwrap_or_else(|error| panic!("{error}"));
        assert!(!was_taken(&greedy[0]).await, "what has come whole is not taken away");
    }
}
