//! Contexts that came in requests and wait for questions of the same session in later ones.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use avp_backend::Context;
use avp_handshake::{Reject, SessionId};
use avp_transport::Party;
use avp_wire::ErrorCode;
use avp_wire::slab::TransferId;

use crate::places::{Holding, Room};

/// A session, and what a context is called in it.
type Key = (SessionId, TransferId);

/// What is kept. Where room is needed, what was not used for the longest time goes: of a session that has its most, or as
/// [`Room::made_for`] says.
pub(crate) struct Kept {
    known: Mutex<HashMap<Key, Entry>>,
    room: Room,
    most_of_session: usize,
    keep: Duration,
}

struct Entry {
    party: Party,
    context: Context,
    bytes: u64,
    used: Instant,
}

impl Kept {
    /// Keeps contexts for which there is `room`, at most `most_of_session` of one session, each for `keep` after its last
    /// question.
    pub(crate) fn new(room: Room, most_of_session: usize, keep: Duration) -> Self {
        Self { known: Mutex::default(), room, most_of_session, keep }
    }

    /// Keeps a context that came from `party`. One of the same name in the session is forgotten.
    pub(crate) fn put(
        &self,
        party: Party,
        session: &SessionId,
        id: TransferId,
        context: Context,
    ) -> Result<(), Reject> {
        let bytes = u64::try_from(context.kv_bytes()).unwrap_or(u64::MAX);
        if !self.room.could_hold(bytes) || self.most_of_session == 0 {
            return Err(no_room());
        }
        let mut known = self.known();
        self.sweep_in(&mut known);
        known.remove(&(session.clone(), id.clone()));
        while known.keys().filter(|key| key.0 == *session).count() >= self.most_of_session {
            forget_oldest_of(session, &mut known);
        }
        let holdings = known.iter().map(|(key, entry)| entry.holding(key, &party)).collect();
        for goes in self.room.made_for(&party, bytes, holdings).ok_or_else(no_room)? {
            known.remove(&goes);
        }
        known.insert((session.clone(), id), Entry { party, context, bytes, used: Instant::now() });
        Ok(())
    }

    /// The context of a session called `id`.
    pub(crate) fn get(&self, session: &SessionId, id: &TransferId) -> Result<Context, Reject> {
        let mut known = self.known();
        self.sweep_in(&mut known);
        let missing = || {
            Reject::new(
                ErrorCode::SlabsMissing,
                "this session has no context of that avp.transfer, or has it no more; transmit it again",
            )
        };
        let entry = known.get_mut(&(session.clone(), id.clone())).ok_or_else(missing)?;
        entry.used = Instant::now();
        Ok(entry.context.clone())
    }

    /// Forgets what has not been used for its time.
    pub(crate) fn sweep(&self) {
        self.sweep_in(&mut self.known());
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep_in(&self, known: &mut HashMap<Key, Entry>) {
        known.retain(|_, entry| entry.used.elapsed() < self.keep);
    }
}

impl Entry {
    fn holding(&self, key: &Key, newcomer: &Party) -> Holding<Key> {
        let Self { party, bytes, used, .. } = self;
        let is_spare = party == newcomer;
        let (key, party) = (key.clone(), party.clone());
        Holding { key, party, bytes: *bytes, used: *used, is_movable: true, is_spare }
    }
}

fn no_room() -> Reject {
    Reject::new(ErrorCode::Busy, "no room to keep a context of this size; try again later")
}

fn forget_oldest_of(session: &SessionId, known: &mut HashMap<Key, Entry>) {
    let own = known.iter().filter(|(key, _)| key.0 == *session);
    let oldest = own.min_by_key(|(_, entry)| entry.used);
    if let Some(key) = oldest.map(|(key, _)| key.clone()) {
        known.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use avp_backend::testing::{MatrixBackend, MatrixTables};
    use avp_backend::{Prompt, ThinkOptions, think};

    use avp_transport::{Peer, PeerAddress};

    use super::*;

    fn context() -> Context {
        let tables = MatrixTables { hidden_dim: 2, input: vec![1.0; 512], output: None };
        let model = MatrixBackend::new("model", tables, 64);
        think(&model, &Prompt::Raw("a".into()), None, &ThinkOptions::default(), &mut |_| ()).unwrap()
    }

    fn peer(name: &str) -> Party {
        Party::from(&Peer::at(PeerAddress::Memory(name.into())).with_identity(name.into()))
    }

    fn party() -> Party {
        peer("somebody")
    }

    fn names() -> [TransferId; 4] {
        ["a", "b", "c", "d"].map(|name| name.parse().unwrap())
    }

    /// Which of the names are there.
    fn there(kept: &Kept, session: &SessionId) -> String {
        let known = kept.known();
        let is_there = |id: &&TransferId| known.contains_key(&(session.clone(), (*id).clone()));
        names().iter().filter(is_there).map(TransferId::as_str).collect()
    }

    // spec: http 6.5
    #[test]
    fn the_longest_unused_context_makes_room_first_in_its_session_then_among_all() {
        let (context, sessions) = (context(), [[1; 16], [2; 16]].map(SessionId::from_random));
        let kept = Kept::new(Room { things: 3, bytes: u64::MAX }, 2, Duration::from_secs(60));
        for id in names().into_iter().take(2) {
            kept.put(party(), &sessions[0], id, context.clone()).unwrap();
        }
        let [a, b, c, d] = names();
        kept.get(&sessions[0], &a).unwrap();
        kept.put(party(), &sessions[0], c, context.clone()).unwrap();
        assert_eq!(there(&kept, &sessions[0]), "ac", "two of a session");
        kept.put(party(), &sessions[1], b.clone(), context.clone()).unwrap();
        kept.put(party(), &sessions[1], b, context.clone()).unwrap();
        assert_eq!(there(&kept, &sessions[0]), "ac", "one of the same name takes no place");
        kept.put(party(), &sessions[1], d, context).unwrap();
        assert_eq!((there(&kept, &sessions[0]), there(&kept, &sessions[1])), ("c".into(), "bd".into()));
    }

    // spec: http 6.5
    #[test]
    fn bytes_and_time_are_bounded() {
        let (context, session) = (context(), SessionId::from_random([1; 16]));
        let bytes = context.kv_bytes() as u64;
        let [a, b, c, _] = names();
        let kept = Kept::new(Room { things: 9, bytes: 2 * bytes }, 9, Duration::from_secs(60));
        for id in [a.clone(), b, c] {
            kept.put(party(), &session, id, context.clone()).unwrap();
        }
        assert_eq!(there(&kept, &session), "bc");
        let none = Kept::new(Room { things: 9, bytes: bytes - 1 }, 9, Duration::from_secs(60));
        let reject = none.put(party(), &session, a.clone(), context.clone()).unwrap_err();
        assert_eq!(reject.code, Some(ErrorCode::Busy));
        let brief = Kept::new(Room { things: 9, bytes: u64::MAX }, 9, Duration::ZERO);
        brief.put(party(), &session, a.clone(), context).unwrap();
        assert_eq!(brief.get(&session, &a).unwrap_err().code, Some(ErrorCode::SlabsMissing));
    }

    // spec: limits 8.2
    #[test]
    fn a_peer_that_fills_the_place_pushes_out_its_own_and_keeps_nobody_out() {
        let (context, sessions) = (context(), [[1; 16], [2; 16]].map(SessionId::from_random));
        let kept = Kept::new(Room { things: 3, bytes: u64::MAX }, 9, Duration::from_secs(60));
        let [a, b, c, d] = names();
        for id in [a.clone(), b, c] {
            kept.put(peer("greedy"), &sessions[0], id, context.clone()).unwrap();
        }
        kept.put(peer("honest"), &sessions[1], a, context.clone()).unwrap();
        assert_eq!((there(&kept, &sessions[0]), there(&kept, &sessions[1])), ("bc".into(), "a".into()));
        kept.put(peer("greedy"), &sessions[0], d, context).unwrap();
        assert_eq!((there(&kept, &sessions[0]), there(&kept, &sessions[1])), ("cd".into(), "a".into()));
    }
}
