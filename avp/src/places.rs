//! Places that all peers share: where none is left, who holds most makes room for who holds less.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use avp_transport::Party;
use tokio::sync::Notify;

/// For how long a place does nothing before a peer that holds no more than its holder can have it.
pub(crate) const IDLE: Duration = Duration::from_secs(5);

/// What somebody holds, as far as it matters when nothing is left.
#[derive(Clone)]
pub(crate) struct Holding<K> {
    pub(crate) key: K,
    pub(crate) party: Party,
    pub(crate) bytes: u64,
    /// When something was last done with it.
    pub(crate) used: Instant,
    /// Whether it can be taken away.
    pub(crate) is_movable: bool,
    /// Whether its own party has no use for it now.
    pub(crate) is_spare: bool,
}

/// How much there is for all: things, and their bytes together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    pub(crate) things: usize,
    pub(crate) bytes: u64,
}

impl Room {
    /// Whether something of so many bytes fits where there is nothing else.
    pub(crate) fn could_hold(&self, bytes: u64) -> bool {
        self.things > 0 && bytes <= self.bytes
    }

    /// What goes so that `party` can have something of `bytes`; `None` where what may go is not enough.
    pub(crate) fn made_for<K>(
        &self,
        party: &Party,
        bytes: u64,
        mut holdings: Vec<Holding<K>>,
    ) -> Option<Vec<K>> {
        let mut gone = Vec::new();
        loop {
            let held = holdings.iter().fold(bytes, |sum, holding| sum.saturating_add(holding.bytes));
            let measure: fn(u64) -> u64 = match (holdings.len() >= self.things, held > self.bytes) {
                (true, _) => |_| 1,
                (false, true) => |bytes| bytes,
                (false, false) => return Some(gone),
            };
            let index = makes_room(&holdings, party, bytes, measure)?;
            gone.push(holdings.swap_remove(index).key);
        }
    }
}

/// What goes so that `party` can have something of `bytes`, by `measure`: of those that hold more than it then would, the
/// largest holder's that was not used for the longest time; or else something spare of its own; or else what is idle of a
/// party that holds no less.
///
/// Holding everything thus keeps nobody out, and nobody loses anything to a peer that would hold more than he does.
fn makes_room<K>(
    holdings: &[Holding<K>],
    party: &Party,
    bytes: u64,
    measure: fn(u64) -> u64,
) -> Option<usize> {
    let mut held: HashMap<&Party, u64> = HashMap::new();
    for holding in holdings {
        let sum = held.entry(&holding.party).or_default();
        *sum = sum.saturating_add(measure(holding.bytes));
    }
    let of = |party: &Party| held.get(party).copied().unwrap_or(0);
    let mine = of(party);
    let movable = || holdings.iter().enumerate().filter(|(_, holding)| holding.is_movable);
    let richer = movable()
        .filter(|(_, holding)| of(&holding.party) > mine.saturating_add(measure(bytes)))
        .min_by_key(|(_, holding)| (std::cmp::Reverse(of(&holding.party)), holding.used));
    let spare = || {
        let own = movable().filter(|(_, own)| own.is_spare && own.party == *party);
        own.min_by_key(|(_, own)| own.used)
    };
    let idle = || {
        let is_idle = |holding: &Holding<K>| holding.used.elapsed() >= IDLE && of(&holding.party) >= mine;
        movable().filter(|(_, holding)| is_idle(holding)).min_by_key(|(_, holding)| holding.used)
    };
    richer.or_else(spare).or_else(idle).map(|(index, _)| index)
}

/// The places for sessions, and for requests that are being answered.
#[derive(Clone)]
pub(crate) struct Places {
    most: usize,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    last: u64,
    places: HashMap<u64, Entry>,
}

struct Entry {
    party: Party,
    used: Instant,
    /// Questions that are being answered, and the like.
    working: usize,
    leave: Arc<Notify>,
}

/// A taken place; dropping it gives it back.
pub(crate) struct Place {
    places: Places,
    id: u64,
    leave: Arc<Notify>,
}

impl Places {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, held: Arc::default() }
    }

    /// A place for `party`; `None` where all are in use and none can be taken from anybody.
    pub(crate) fn take(&self, party: Party) -> Option<Arc<Place>> {
        self.enter(party, 0)
    }

    /// The same for something that is done at once.
    pub(crate) fn work(&self, party: Party) -> Option<Working> {
        self.enter(party, 1).map(Working)
    }

    fn enter(&self, party: Party, working: usize) -> Option<Arc<Place>> {
        let mut held = self.held();
        let holdings = held.places.iter().map(|(&id, entry)| entry.holding(id)).collect();
        let room = Room { things: self.most, bytes: u64::MAX };
        for displaced in room.made_for(&party, 0, holdings)? {
            if let Some(displaced) = held.places.remove(&displaced) {
                displaced.leave.notify_one();
            }
        }
        held.last += 1;
        let (id, leave) = (held.last, Arc::<Notify>::default());
        let entry = Entry { party, used: Instant::now(), working, leave: Arc::clone(&leave) };
        held.places.insert(id, entry);
        Some(Arc::new(Place { places: self.clone(), id, leave }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn holding(&self, key: u64) -> Holding<u64> {
        let is_movable = self.working == 0;
        Holding { key, party: self.party.clone(), bytes: 0, used: self.used, is_movable, is_spare: false }
    }
}

impl Place {
    /// Resolves when the place went to another peer.
    pub(crate) async fn lost(&self) {
        self.leave.notified().await;
    }

    /// Something that is done with the place: for as long as the result lives it cannot be lost.
    pub(crate) fn work(self: &Arc<Self>) -> Working {
        self.with(|entry| entry.working += 1);
        Working(Arc::clone(self))
    }

    /// Whether something is being done with it.
    pub(crate) fn is_working(&self) -> bool {
        self.places.held().places.get(&self.id).is_some_and(|entry| entry.working > 0)
    }

    fn with(&self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.places.held().places.get_mut(&self.id) {
            entry.used = Instant::now();
            change(entry);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().places.remove(&self.id);
    }
}

/// Something that is being done with a place.
pub(crate) struct Working(Arc<Place>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.with(|entry| entry.working = entry.working.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use avp_transport::{Peer, PeerAddress};

    use super::*;

    fn party(name: &str) -> Party {
        Party::from(&Peer::at(PeerAddress::Memory(name.into())).with_identity(name.into()))
    }

    /// One that was used `ago` seconds ago.
    fn holding(key: u32, name: &str, bytes: u64, ago: u64) -> Holding<u32> {
        let used = Instant::now().checked_sub(Duration::from_secs(ago)).unwrap();
        Holding { key, party: party(name), bytes, used, is_movable: true, is_spare: false }
    }

    /// The key of what makes room, by bytes.
    fn goes(holdings: &[Holding<u32>], party: &Party, bytes: u64) -> Option<u32> {
        makes_room(holdings, party, bytes, |bytes| bytes).map(|index| holdings[index].key)
    }

    #[test]
    fn the_largest_holder_makes_room_with_what_it_did_not_use_for_the_longest_time() {
        let holdings =
            [holding(1, "a", 1, 4), holding(2, "b", 1, 1), holding(3, "b", 1, 2), holding(4, "b", 1, 0)];
        assert_eq!(goes(&holdings, &party("c"), 1), Some(3));
        assert_eq!(goes(&holdings, &party("a"), 1), Some(3));
        assert_eq!(goes(&holdings, &party("b"), 1), None, "nobody holds more, and nothing is idle");
        assert_eq!(goes(&holdings, &party("c"), 3), None, "by size: it would hold as much as the largest");
    }

    #[test]
    fn what_works_stays() {
        let mut holdings = [holding(1, "b", 1, 9), holding(2, "b", 1, 1)];
        holdings[0].is_movable = false;
        assert_eq!(goes(&holdings, &party("c"), 1), Some(2));
        holdings[1].is_movable = false;
        assert_eq!(goes(&holdings, &party("c"), 1), None);
    }

    #[test]
    fn what_is_idle_goes_to_those_who_hold_no_more() {
        let long = IDLE.as_secs() + 1;
        let holdings = [holding(1, "a", 1, long), holding(2, "b", 1, 1), holding(3, "b", 1, 1)];
        assert_eq!(goes(&holdings[..2], &party("c"), 1), Some(1));
        assert_eq!(goes(&holdings[..2], &party("a"), 1), Some(1));
        assert_eq!(goes(&holdings, &party("b"), 1), None, "nobody loses to who holds more");
    }

    #[test]
    fn something_spare_of_its_own_goes_before_what_others_left_idle() {
        let mut holdings = [holding(1, "a", 1, 2 * IDLE.as_secs()), holding(2, "b", 1, 0)];
        holdings[1].is_spare = true;
        assert_eq!(goes(&holdings, &party("b"), 1), Some(2));
        assert_eq!(goes(&holdings, &party("c"), 1), Some(1));
    }

    #[test]
    fn nobody_loses_anything_where_it_would_not_be_enough() {
        let holdings = || (1..=4).map(|key| holding(key, "a", 1, 0)).collect::<Vec<_>>();
        let room = Room { things: 64, bytes: 4 };
        assert_eq!(room.made_for(&party("b"), 2, holdings()), Some(vec![1, 2]), "half of it for each");
        assert_eq!(room.made_for(&party("b"), 3, holdings()), None, "it would hold more than is left");
        assert!(!room.could_hold(5) && room.could_hold(4));
    }

    #[tokio::test]
    async fn a_place_is_lost_to_a_peer_that_holds_none_and_never_while_it_works() {
        let places = Places::new(2);
        let (first, second) = (places.take(party("a")).unwrap(), places.take(party("a")).unwrap());
        assert!(places.take(party("a")).is_none());
        let working = first.work();
        let other = places.take(party("b")).unwrap();
        second.lost().await;
        drop(second);
        assert!(places.take(party("c")).is_none(), "both hold one, and neither is idle");
        drop((working, other));
        assert!(places.take(party("c")).is_some());
    }
}
