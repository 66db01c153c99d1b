//! Connections that were accepted and have not negotiated: at most so many per peer, the oldest goes first.
//!
//! Dropping the oldest instead of refusing the newest keeps an honest client going beside an attacker at the same
//! address: it needs milliseconds, the attacker's connections sit for as long as they are let. So that it has those
//! milliseconds also when the attacker's come in a burst, a listener that drops connections accepts no faster than
//! leaves each of them its tenure.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Duration, Instant, sleep_until};

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

impl PeerKey {
    /// The processes of a user of this machine.
    pub(crate) fn user(uid: u32) -> Self {
        Self(u64::from(uid).to_be_bytes())
    }
}

/// How long a connection stays before it is dropped for another. With 64 places a flood is accepted 3,200 times a
/// second.
const TENURE: Duration = Duration::from_millis(20);

/// A taken place.
#[derive(Debug)]
struct Place {
    id: u64,
    since: Instant,
    /// Tells its holder to leave.
    leave: Arc<Notify>,
    progress: Progress,
}

/// What a half-open connection has done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Said what comes first.
    Spoken,
    /// Shaken hands as its transport does, which under TLS costs a peer as much as this side.
    Secured,
}

const SECURED: u8 = 2;

/// How far a connection has come. Those that are further are dropped after the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU8>);

impl Progress {
    pub(crate) fn mark(&self, step: Step) {
        let reached = match step {
            Step::Spoken => 1,
            Step::Secured => SECURED,
        };
        self.0.fetch_max(reached, Ordering::Relaxed);
    }

    fn reached(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    peers: HashMap<PeerKey, VecDeque<Place>>,
    /// Whose connection came last, if that took the last of its places.
    crowded: Option<PeerKey>,
}

/// Counts half-open connections of one listener.
#[derive(Clone, Debug)]
pub(crate) struct HalfOpenGate {
    limit: usize,
    waiting: Arc<Mutex<Waiting>>,
    /// Told when a crowded peer has a place again.
    freed: Arc<Notify>,
}

impl HalfOpenGate {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), waiting: Arc::default(), freed: Arc::default() }
    }

    /// Counts a new connection. Where there are too many the peer's oldest is dropped: of those that have had their tenure
    /// and have come least far, or else, where none has had it, of all. Those that have come furthest are kept before
    /// others for half of the places only, or whoever shakes hands and stops there would keep everybody else out.
    pub(crate) fn enter(&self, key: PeerKey) -> HalfOpen {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.last += 1;
        let id = waiting.last;
        let dropped = Arc::new(Notify::new());
        let queue = waiting.peers.entry(key.clone()).or_default();
        if queue.len() >= self.limit {
            let secured = |place: &Place| place.progress.reached() == SECURED;
            let are_too_many = queue.iter().filter(|place| secured(place)).count() > self.limit / 2;
            let tenured = queue.iter().enumerate().filter(|(_, place)| place.since.elapsed() >= TENURE);
            // The first of several that are alike, which is the oldest.
            let least = tenured.min_by_key(|(_, place)| match place.progress.reached() {
                SECURED if are_too_many => 0,
                reached => reached + 1,
            });
            let index = least.map_or(0, |(index, _)| index);
            if let Some(place) = queue.remove(index) {
                place.leave.notify_one();
            }
        }
        let progress = Progress::default();
        queue.push_back(Place {
            id,
            since: Instant::now(),
            leave: Arc::clone(&dropped),
            progress: progress.clone(),
        });
        let crowded = queue.len() >= self.limit;
        waiting.crowded = crowded.then(|| key.clone());
        HalfOpen { gate: self.clone(), key, id, dropped, progress }
    }

    /// Connections of all peers that are counted now.
    pub(crate) fn total(&self) -> usize {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.peers.values().map(VecDeque::len).sum()
    }

    /// Waits until another connection can be accepted without dropping one that has only just come. Dropping the
    /// future loses nothing.
    pub(crate) async fn ready(&self) {
        while let Some(resume) = self.resume() {
            tokio::select! {
                () = sleep_until(resume) => return,
                () = self.freed.notified() => {}
            }
        }
    }

    /// When to accept again; `None` for now.
    fn resume(&self) -> Option<Instant> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = waiting.peers.get(waiting.crowded.as_ref()?)?;
        if queue.len() < self.limit || queue.front()?.since.elapsed() >= TENURE {
            return None;
        }
        // Some at once, since timers are no finer than a millisecond.
        queue.get(queue.len() / 4).map(|place| place.since + TENURE)
    }

    #[cfg(test)]
    fn count(&self, key: &PeerKey) -> usize {
        self.waiting.lock().unwrap().peers.get(key).map_or(0, VecDeque::len)
    }
}

/// A connection's place among the half-open ones; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct HalfOpen {
    gate: HalfOpenGate,
    key: PeerKey,
    id: u64,
    dropped: Arc<Notify>,
    progress: Progress,
}

impl HalfOpen {
    /// What is marked as the connection goes on.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.clone()
    }

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
        if let Some(queue) = waiting.peers.get_mut(&self.key) {
            queue.retain(|place| place.id != self.id);
            if queue.len() < self.gate.limit {
                self.gate.freed.notify_one();
            }
            if queue.is_empty() {
                waiting.peers.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    #[tokio::test(start_paused = true)]
    async fn in_a_burst_each_connection_has_its_tenure() {
        let gate = HalfOpenGate::new(64);
        let (start, mut held) = (Instant::now(), VecDeque::new());
        for _ in 0..640 {
            gate.ready().await;
            held.push_back((Instant::now(), gate.enter(key("10.0.0.1"))));
            if held.len() > 64
                && let Some((since, oldest)) = held.pop_front()
            {
                oldest.dropped().await;
                assert!(since.elapsed() >= TENURE, "{:?}", since.elapsed());
            }
        }
        assert!(start.elapsed() < 12 * TENURE, "{:?}", start.elapsed());
        // Places that are given back end the wait.
        let waiting = gate.clone();
        let waiter = tokio::spawn(async move { waiting.ready().await });
        held.pop_back();
        let given_back = Instant::now();
        waiter.await.unwrap();
        assert_eq!(given_back.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_come_further_is_dropped_after_the_others() {
        let gate = HalfOpenGate::new(4);
        let [secured, spoken, silent, second] = [0; 4].map(|_| gate.enter(key("10.0.0.1")));
        secured.progress().mark(Step::Secured);
        spoken.progress().mark(Step::Spoken);
        tokio::time::advance(TENURE).await;
        let fresh = gate.enter(key("10.0.0.1"));
        silent.dropped().await;
        second.progress().mark(Step::Spoken);
        // The one that has just come has its tenure.
        let newer = gate.enter(key("10.0.0.1"));
        spoken.dropped().await;
        let newest = gate.enter(key("10.0.0.1"));
        second.dropped().await;
        for kept in [&secured, &fresh, &newer, &newest] {
            assert!(timeout(Duration::from_millis(1), kept.dropped()).await.is_err());
        }
        // Where none but it has had its tenure it goes all the same.
        let _one_more = gate.enter(key("10.0.0.1"));
        secured.dropped().await;
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_shake_hands_and_stop_keep_half_of_the_places_at_most() {
        let gate = HalfOpenGate::new(4);
        let [first, second, spoken, third] = [0; 4].map(|_| gate.enter(key("10.0.0.1")));
        for secured in [&first, &second, &third] {
            secured.progress().mark(Step::Secured);
        }
        spoken.progress().mark(Step::Spoken);
        tokio::time::advance(TENURE).await;
        let fresh = gate.enter(key("10.0.0.1"));
        first.dropped().await;
        let _fresher = gate.enter(key("10.0.0.1"));
        spoken.dropped().await;
        for kept in [&second, &third, &fresh] {
            assert!(timeout(Duration::from_millis(1), kept.dropped()).await.is_err());
        }
    }

    #[test]
    fn places_come_back_and_nothing_is_kept_of_peers_that_left() {
        let gate = HalfOpenGate::new(2);
        for _ in 0..1000 {
            drop(gate.enter(key("10.0.0.1")));
        }
        assert_eq!(gate.count(&key("10.0.0.1")), 0);
        assert!(gate.waiting.lock().unwrap().peers.is_empty());
    }

    #[test]
    fn one_ipv6_network_is_one_peer_and_mapped_addresses_are_ipv4() {
        assert_eq!(key("2001:db8::1"), key("2001:db8::2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }
}
