//! Connections that were accepted and have not negotiated: at most so many per peer, the oldest goes first.
//!
//! Dropping the oldest instead of refusing the newest keeps an honest client going beside an attacker at the same
//! address: it needs milliseconds, the attacker's connections sit for as long as they are let.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Whose half-open connections are counted together: an IPv4 address, or an IPv6 network of 64 bits, which is what
/// one host is given. In shared memory, a user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PeerKey([u8; 8]);

impl From<IpAddr> for PeerKey {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                Self([0, 0, 0, 0, a, b, c, d])
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl PeerKey {
    /// The processes of a user of this machine.
    pub(crate) fn user(uid: u32) -> Self {
        Self(u64::from(uid).to_be_bytes())
    }
}

type Waiting = HashMap<PeerKey, VecDeque<(u64, Arc<Notify>)>>;

/// Counts half-open connections of one listener.
#[derive(Clone, Debug)]
pub(crate) struct HalfOpenGate {
    limit: usize,
    waiting: Arc<Mutex<(u64, Waiting)>>,
}

impl HalfOpenGate {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), waiting: Arc::default() }
    }

    /// Counts a new connection, dropping the peer's oldest where there are too many.
    pub(crate) fn enter(&self, key: PeerKey) -> HalfOpen {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.0 += 1;
        let id = waiting.0;
        let dropped = Arc::new(Notify::new());
        let queue = waiting.1.entry(key.clone()).or_default();
        if queue.len() >= self.limit
            && let Some((_, oldest)) = queue.pop_front()
        {
            oldest.notify_one();
        }
        queue.push_back((id, Arc::clone(&dropped)));
        HalfOpen { gate: self.clone(), key, id, dropped }
    }

    /// Connections of all peers that are counted now.
    pub(crate) fn total(&self) -> usize {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.1.values().map(VecDeque::len).sum()
    }

    #[cfg(test)]
    fn count(&self, key: &PeerKey) -> usize {
        self.waiting.lock().unwrap().1.get(key).map_or(0, VecDeque::len)
    }
}

/// A connection's place among the half-open ones; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    gate: HalfOpenGate,
    key: PeerKey,
    id: u64,
    dropped: Arc<Notify>,
}

impl HalfOpen {
    pub(crate) fn limit(&self) -> usize {
        self.gate.limit
    }

    /// What is notified when this connection has to make room, for a task that does not hold the place.
    pub(crate) fn pushed_out(&self) -> Arc<Notify> {
        Arc::clone(&self.dropped)
    }

    /// Resolves when this connection had to make room for a newer one.
    pub(crate) async fn dropped(&self) {
        self.dropped.notified().await;
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        let mut waiting = self.gate.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = waiting.1.get_mut(&self.key) {
            queue.retain(|(id, _)| *id != self.id);
            if queue.is_empty() {
                waiting.1.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn key(address: &str) -> PeerKey {
        PeerKey::from(address.parse::<IpAddr>().unwrap())
    }

    // spec: limits 8.1
    #[tokio::test(start_paused = true)]
    async fn one_connection_too_many_drops_the_oldest_of_that_peer_only() {
        let gate = HalfOpenGate::new(64);
        let other = gate.enter(key("10.0.0.2"));
        let held: Vec<HalfOpen> = (0..65).map(|_| gate.enter(key("10.0.0.1"))).collect();
        held[0].dropped().await;
        for kept in held[1..].iter().chain([&other]) {
            assert!(timeout(Duration::from_secs(1), kept.dropped()).await.is_err());
        }
        assert_eq!(gate.count(&key("10.0.0.1")), 64);
    }

    #[test]
    fn places_come_back_and_nothing_is_kept_of_peers_that_left() {
        let gate = HalfOpenGate::new(2);
        for _ in 0..1000 {
            drop(gate.enter(key("10.0.0.1")));
        }
        assert_eq!(gate.count(&key("10.0.0.1")), 0);
        assert!(gate.waiting.lock().unwrap().1.is_empty());
    }

    #[test]
    fn one_ipv6_network_is_one_peer_and_mapped_addresses_are_ipv4() {
        assert_eq!(key("2001:db8::1"), key("2001:db8::2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }
}
