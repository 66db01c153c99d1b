//! The sessions of one side, bounded in number and time.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use avp_wire::{ErrorCode, Fault};

use super::{PeerId, Session, SessionId};

/// How many sessions a store holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// In all.
    pub sessions: usize,
    /// Of one peer, so that no peer takes the place of the others.
    pub per_peer: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { sessions: 4096, per_peer: 64 }
    }
}

/// Why a store did not take or give a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// No session of that id exists for this peer. A session of another peer gives the same answer, so that asking
    /// tells nothing.
    #[error("this peer has no session of that id; say hello to open one")]
    Unknown,
    /// The session has outlived its time.
    #[error("the session has expired; say hello to open another")]
    Expired,
    /// As many sessions live as may.
    #[error("{limit} sessions live, more are not taken; wait for one to expire or raise the limit")]
    Full {
        /// Sessions allowed.
        limit: usize,
    },
    /// As many sessions of this peer live as may.
    #[error("{limit} sessions of this peer live, more are not taken; close one first")]
    PeerFull {
        /// Sessions allowed.
        limit: usize,
    },
    /// A session of this id lives already.
    #[error("a session of this id lives already; make ids from a cryptographic source")]
    Duplicate,
}

impl SessionError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Unknown => ErrorCode::UnknownSession,
            Self::Expired => ErrorCode::SessionExpired,
            Self::Full { .. } | Self::PeerFull { .. } => ErrorCode::Busy,
            Self::Duplicate => ErrorCode::InvalidArgument,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.code().fault()
    }
}

/// The living sessions of one side.
#[derive(Debug, Default)]
pub struct SessionStore {
    limits: StoreLimits,
    sessions: HashMap<SessionId, Session>,
    by_expiry: BTreeSet<(Instant, SessionId)>,
    /// Of each peer, by expiry.
    per_peer: HashMap<PeerId, BTreeSet<(Instant, SessionId)>>,
}

impl SessionStore {
    /// An empty store.
    #[must_use]
    pub fn new(limits: StoreLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a session, after making room by dropping expired ones.
    ///
    /// # Errors
    /// [`SessionError::Full`], [`SessionError::PeerFull`], or [`SessionError::Duplicate`].
    pub fn insert(&mut self, session: Session, now: Instant) -> Result<(), SessionError> {
        self.remove_expired(now);
        if self.sessions.contains_key(&session.id) {
            return Err(SessionError::Duplicate);
        }
        if self.sessions.len() >= self.limits.sessions {
            return Err(SessionError::Full { limit: self.limits.sessions });
        }
        if self.per_peer.get(&session.peer).is_some_and(|theirs| theirs.len() >= self.limits.per_peer) {
            return Err(SessionError::PeerFull { limit: self.limits.per_peer });
        }
        let key = (session.expires_at, session.id.clone());
        self.per_peer.entry(session.peer.clone()).or_default().insert(key.clone());
        self.by_expiry.insert(key);
        self.sessions.insert(session.id.clone(), session);
        Ok(())
    }

    /// The session of this id, for the peer that it was agreed with.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], also where it is another peer's; [`SessionError::Expired`], once, if it was this
    /// peer's.
    pub fn get(&mut self, id: &SessionId, peer: &PeerId, now: Instant) -> Result<&Session, SessionError> {
        let expired = match self.sessions.get(id) {
            Some(session) if session.peer == *peer => session.is_expired(now),
            _ => return Err(SessionError::Unknown),
        };
        if expired {
            self.take(id);
            return Err(SessionError::Expired);
        }
        self.sessions.get(id).ok_or(SessionError::Unknown)
    }

    /// Ends a session of this peer; `None` where it has none of this id.
    pub fn remove(&mut self, id: &SessionId, peer: &PeerId) -> Option<Session> {
        match self.sessions.get(id) {
            Some(session) if session.peer == *peer => self.take(id),
            _ => None,
        }
    }

    /// Ends all sessions of this peer, whose connection has ended, say; gives how many there were.
    pub fn remove_all(&mut self, peer: &PeerId) -> usize {
        let mut count = 0;
        while self.remove_oldest(peer).is_some() {
            count += 1;
        }
        count
    }

    /// Ends the session of this peer that expires first, to make room for another of its own.
    pub fn remove_oldest(&mut self, peer: &PeerId) -> Option<Session> {
        let (_, id) = self.per_peer.get(peer)?.first()?.clone();
        self.take(&id)
    }

    /// Drops expired sessions and says how many there were.
    pub fn remove_expired(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while let Some((expires_at, id)) = self.by_expiry.first().cloned()
            && now > expires_at
        {
            self.take(&id);
            count += 1;
        }
        count
    }

    /// When the next session expires.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.by_expiry.first().map(|(expires_at, _)| *expires_at)
    }

    /// Sessions held, expired ones that were not yet dropped included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    fn take(&mut self, id: &SessionId) -> Option<Session> {
        let session = self.sessions.remove(id)?;
        let key = (session.expires_at, session.id.clone());
        self.by_expiry.remove(&key);
        if let Some(theirs) = self.per_peer.get_mut(&session.peer) {
            theirs.remove(&key);
            if theirs.is_empty() {
                self.per_peer.remove(&session.peer);
            }
        }
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::DEFAULT_SESSION_TTL;
    use crate::{ModelIdentity, ResolveOptions, resolve};
    use proptest::prelude::*;
    use std::time::Duration;

    fn session(id: u8, peer: &str, at: Instant) -> Session {
        let identity = ModelIdentity::default();
        Session {
            id: SessionId::from_random([id; 16]),
            peer: PeerId::new(peer),
            remote_agent: String::new(),
            resolution: resolve(&identity, &identity, &ResolveOptions::default()),
            remote_identity: identity,
            created_at: at,
            expires_at: at + DEFAULT_SESSION_TTL,
        }
    }

    // spec: handshake 4.5, handshake 4.6
    #[test]
    fn ids_are_32_lowercase_hexadecimal_digits() {
        assert_eq!(SessionId::from_random([0xAB; 16]).as_str(), "ab".repeat(16));
        assert!(SessionId::parse(&"x".repeat(128)).is_some());
        for bad in ["", "a b", "a\n", "é", &"x".repeat(129)] {
            assert_eq!(SessionId::parse(bad), None);
        }
    }

    // spec: handshake 4.4
    #[test]
    fn a_session_is_worth_nothing_to_another_peer() {
        let now = Instant::now();
        let mut store = SessionStore::default();
        let mine = session(1, "alice", now);
        store.insert(mine.clone(), now).unwrap();
        let mallory = PeerId::new("mallory");
        assert_eq!(store.get(&mine.id, &mallory, now), Err(SessionError::Unknown));
        assert_eq!(store.remove(&mine.id, &mallory), None);
        let late = mine.expires_at + Duration::from_secs(1);
        assert_eq!(store.get(&mine.id, &mallory, late), Err(SessionError::Unknown));
        assert_eq!(store.get(&mine.id, &mine.peer, now), Ok(&mine));
    }

    // spec: handshake 7.3
    #[test]
    fn a_peer_that_leaves_takes_its_sessions_with_it_and_its_oldest_makes_room() {
        let now = Instant::now();
        let mut store = SessionStore::new(StoreLimits { sessions: 10, per_peer: 2 });
        let [old, new] =
            [(1, now), (2, now + Duration::from_secs(1))].map(|(id, at)| session(id, "alice", at));
        let other = session(3, "bob", now);
        for one in [&new, &old, &other] {
            store.insert(one.clone(), now).unwrap();
        }
        assert_eq!(store.insert(session(4, "alice", now), now), Err(SessionError::PeerFull { limit: 2 }));
        assert_eq!(store.remove_oldest(&old.peer), Some(old.clone()));
        store.insert(session(4, "alice", now), now).unwrap();
        assert_eq!((store.remove_all(&old.peer), store.remove_all(&old.peer)), (2, 0));
        assert_eq!(store.get(&other.id, &other.peer, now), Ok(&other));
    }

    // spec: handshake 7.1
    #[test]
    fn a_session_lives_its_hour_and_no_longer() {
        let now = Instant::now();
        let mut store = SessionStore::default();
        let one = session(1, "a", now);
        store.insert(one.clone(), now).unwrap();
        let end = now + Duration::from_secs(3600);
        assert_eq!(store.next_expiry(), Some(end));
        assert!(store.get(&one.id, &one.peer, end).is_ok());
        assert_eq!(store.get(&one.id, &one.peer, end + Duration::from_nanos(1)), Err(SessionError::Expired));
        assert_eq!(store.get(&one.id, &one.peer, now), Err(SessionError::Unknown));
        assert!(store.is_empty());
    }

    // spec: handshake 7.2
    #[test]
    fn room_is_bounded_and_expired_sessions_make_some() {
        let now = Instant::now();
        let mut store = SessionStore::new(StoreLimits { sessions: 3, per_peer: 2 });
        store.insert(session(1, "a", now), now).unwrap();
        store.insert(session(2, "a", now), now).unwrap();
        assert_eq!(store.insert(session(3, "a", now), now), Err(SessionError::PeerFull { limit: 2 }));
        assert_eq!(store.insert(session(1, "b", now), now), Err(SessionError::Duplicate));
        let later = now + Duration::from_secs(10);
        store.insert(session(4, "b", later), later).unwrap();
        assert_eq!(store.insert(session(5, "c", later), later), Err(SessionError::Full { limit: 3 }));
        let after = now + DEFAULT_SESSION_TTL + Duration::from_secs(1);
        store.insert(session(3, "a", after), after).unwrap();
        assert_eq!(store.len(), 2);
    }

    proptest! {
        #[test]
        fn counts_stay_true_under_any_order_of_operations(
            ops in prop::collection::vec((0u8..4, 0u8..6, 0u8..3, 0u64..2000), 0..100)
        ) {
            let mut now = Instant::now();
            let mut store = SessionStore::new(StoreLimits { sessions: 5, per_peer: 3 });
            for (op, id, peer, wait) in ops {
                now += Duration::from_secs(wait);
                let subject = session(id, &peer.to_string(), now);
                match op {
                    0 => { let _ = store.insert(subject, now); }
                    1 => { let _ = store.get(&subject.id, &subject.peer, now); }
                    2 => { let _ = store.remove(&subject.id, &subject.peer); }
                    _ => { store.remove_expired(now); }
                }
                prop_assert!(store.len() <= 5);
                prop_assert_eq!(store.by_expiry.len(), store.sessions.len());
                prop_assert_eq!(store.per_peer.values().map(BTreeSet::len).sum::<usize>(), store.sessions.len());
                prop_assert!(store.per_peer.values().all(|theirs| (1..=3).contains(&theirs.len())));
            }
        }
    }
}
