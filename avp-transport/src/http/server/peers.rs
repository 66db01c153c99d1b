//! What the clients of one address use together: connections and requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::super::HttpLimits;
use crate::half_open::PeerKey;

/// Addresses that are remembered before those that have gone are looked for.
const REMEMBERED: usize = 1024;

/// The peers of one listener.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    limits: HttpLimits,
    known: Arc<Mutex<HashMap<PeerKey, Usage>>>,
}

#[derive(Debug)]
struct Usage {
    connections: usize,
    tokens: f64,
    filled: Instant,
}

impl Usage {
    fn refill(&mut self, limits: &HttpLimits) {
        let now = Instant::now();
        let earned = now.duration_since(self.filled).as_secs_f64() * f64::from(limits.requests_per_second);
        self.tokens = (self.tokens + earned).min(f64::from(limits.request_burst));
        self.filled = now;
    }
}

impl Peers {
    pub(super) fn new(limits: HttpLimits) -> Self {
        Self { limits, known: Arc::default() }
    }

    /// Counts a connection.
    pub(super) fn enter(&self, key: PeerKey) -> Presence {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED && !known.contains_key(&key) {
            known.retain(|_, usage| {
                usage.refill(&self.limits);
                usage.connections > 0 || usage.tokens < f64::from(self.limits.request_burst)
            });
        }
        let new =
            || Usage { connections: 0, tokens: f64::from(self.limits.request_burst), filled: Instant::now() };
        let usage = known.entry(key.clone()).or_insert_with(new);
        usage.connections += 1;
        let crowded = usage.connections > self.limits.connections_per_peer;
        Presence { peers: self.clone(), key, crowded }
    }
}

/// A connection of a peer.
#[derive(Debug)]
pub(super) struct Presence {
    peers: Peers,
    key: PeerKey,
    /// Whether it came when the peer had as many as it may.
    pub(super) crowded: bool,
}

impl Presence {
    /// Whose it is.
    pub(super) fn key(&self) -> PeerKey {
        self.key.clone()
    }

    /// Counts a request; `false` where the peer makes too many.
    pub(super) fn request(&self) -> bool {
        let mut known = self.peers.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(usage) = known.get_mut(&self.key) else { return false };
        usage.refill(&self.peers.limits);
        let allowed = usage.tokens >= 1.0;
        if allowed {
            usage.tokens -= 1.0;
        }
        allowed
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut known = self.peers.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = known.get_mut(&self.key) {
            usage.connections = usage.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    fn key(last: u32) -> PeerKey {
        PeerKey::from(IpAddr::from(last.to_be_bytes()))
    }

    // spec: http 5.3
    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_burst_are_counted_over_all_connections_of_a_peer() {
        let limits = HttpLimits { requests_per_second: 10, request_burst: 20, ..HttpLimits::default() };
        let peers = Peers::new(limits);
        let (one, two, other) = (peers.enter(key(1)), peers.enter(key(1)), peers.enter(key(2)));
        assert_eq!((0..20).filter(|_| one.request()).count(), 20);
        assert!(!two.request() && other.request());
        drop(one);
        drop(two);
        let again = peers.enter(key(1));
        assert!(!again.request(), "connecting anew forgives nothing");
        advance(Duration::from_secs(1)).await;
        assert_eq!((0..20).filter(|_| again.request()).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_peers_that_left() {
        let peers = Peers::new(HttpLimits::default());
        for last in 0..5000 {
            peers.enter(key(last)).request();
            advance(Duration::from_millis(10)).await;
        }
        assert!(peers.known.lock().unwrap().len() <= REMEMBERED + 1);
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_crowded() {
        let limits = HttpLimits { connections_per_peer: 2, ..HttpLimits::default() };
        let peers = Peers::new(limits);
        let held: Vec<Presence> = (0..3).map(|_| peers.enter(key(1))).collect();
        assert_eq!(held.iter().map(|one| one.crowded).collect::<Vec<_>>(), [false, false, true]);
        drop(held);
        assert!(!peers.enter(key(1)).crowded);
    }
}
