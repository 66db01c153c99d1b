//! When to look for what is coming instead of sleeping until it is there. To be woken takes longer than a small frame
//! takes both ways, so where one follows another at once, looking is several times faster.

use std::hint::spin_loop;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

/// After so many times in vain looking is tried as rarely as it ever is: once in 2^8 chances.
const MOST_MISSES: u32 = 8;

/// Receivers of this process that look right now. More than there are cores would only be in each other's way.
static LOOKING: AtomicUsize = AtomicUsize::new(0);
static MOST_LOOKING: LazyLock<usize> = LazyLock::new(|| match thread::available_parallelism() {
    // The other side needs the only core.
    Ok(cores) if cores.get() > 1 => cores.get(),
    _ => 0,
});

/// Decides by the waits before whether the next begins with looking, so that a quiet connection costs nothing, nor one
/// whose peer does not get to run while this side looks.
#[derive(Debug)]
pub(crate) struct BusyPoll {
    most: Duration,
    /// Time between two turns of the runtime's other tasks.
    turn: Duration,
    /// Short waits until looking is worth a try.
    chances: u32,
    /// How often it was in vain, one time after the other.
    misses: u32,
}

impl BusyPoll {
    /// Looks for `most` at a time, and lets other tasks run every `turn`.
    pub(crate) fn new(most: Duration, turn: Duration) -> Self {
        Self { most, turn, chances: 1, misses: 0 }
    }

    /// The looks of one wait; `None` where it is better to sleep at once.
    pub(crate) fn begin(&mut self) -> Option<Looks> {
        if self.chances > 0 || self.most.is_zero() {
            return None;
        }
        Some(self.look(Place::take()?))
    }

    fn look(&mut self, place: Place) -> Looks {
        // In vain unless something is found, also where the wait is given up.
        self.chances = 1 << self.misses;
        self.misses = (self.misses + 1).min(MOST_MISSES);
        let (most, turn) = (self.most, self.turn);
        Looks { start: Instant::now(), most, turn, yielded: None, _place: place }
    }

    /// Learns from looks that found something. Where they took too long this thread was not running, and the other
    /// side had better been woken.
    pub(crate) fn found(&mut self, looks: &Looks) {
        if looks.start.elapsed() <= self.most {
            (self.chances, self.misses) = (0, 0);
        }
    }

    /// Learns from a wait without looks.
    pub(crate) fn slept(&mut self, waited: Duration) {
        // Waking up takes its time too.
        if waited < self.most.saturating_mul(2) {
            self.chances = self.chances.saturating_sub(1);
        } else {
            self.chances = self.chances.max(1);
        }
    }
}

/// The looks of one wait.
#[derive(Debug)]
pub(crate) struct Looks {
    start: Instant,
    most: Duration,
    turn: Duration,
    /// When other tasks had their last turn.
    yielded: Option<Instant>,
    _place: Place,
}

impl Looks {
    /// Whether to look once more. Other tasks get their turn between: the first at once, since one of them may be the
    /// other side.
    pub(crate) async fn again(&mut self) -> bool {
        let now = Instant::now();
        if now.saturating_duration_since(self.start) >= self.most {
            return false;
        }
        if self.yielded.is_some_and(|yielded| now.saturating_duration_since(yielded) < self.turn) {
            spin_loop();
        } else {
            yield_now().await;
            self.yielded = Some(Instant::now());
        }
        true
    }
}

/// One of the receivers that look.
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let most = *MOST_LOOKING;
        let more = |looking: usize| (looking < most).then_some(looking + 1);
        LOOKING.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        LOOKING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);
    const TURN: Duration = Duration::from_micros(10);

    /// Waits of this length until looking is tried again.
    fn chances(busy: &mut BusyPoll, waited: Duration) -> u32 {
        let waits = (0..1000).take_while(|_| {
            let sleeps = busy.chances > 0;
            if sleeps {
                busy.slept(waited);
            }
            sleeps
        });
        u32::try_from(waits.count()).unwrap()
    }

    #[test]
    fn looks_follow_short_waits_and_rarely_looks_in_vain() {
        let mut busy = BusyPoll::new(MOST, TURN);
        assert_eq!(chances(&mut busy, MOST * 2), 1000, "a quiet connection always sleeps");
        assert_eq!(chances(&mut busy, MOST), 1);
        for misses in [1, 2, 4, 8, 16, 32, 64, 128, 256, 256] {
            drop(looks(&mut busy));
            assert_eq!(chances(&mut busy, MOST), misses);
        }
        let mut late = looks(&mut busy);
        late.start -= MOST * 2;
        busy.found(&late);
        assert_eq!(chances(&mut busy, MOST), 256, "found too late");
        let mut soon = looks(&mut busy);
        soon.start += Duration::from_secs(60);
        busy.found(&soon);
        assert_eq!(busy.chances, 0, "what was found is looked for again");
        drop(looks(&mut busy));
        assert_eq!(chances(&mut busy, MOST), 1);
    }

    #[test]
    fn no_time_is_no_looks() {
        let mut busy = BusyPoll::new(Duration::ZERO, TURN);
        busy.chances = 0;
        assert!(busy.begin().is_none());
    }

    #[tokio::test]
    async fn looks_end_when_their_time_is_over() {
        let mut busy = BusyPoll::new(MOST, TURN);
        busy.chances = 0;
        let mut looks = looks(&mut busy);
        while looks.again().await {}
        assert!(looks.start.elapsed() >= MOST);
    }

    fn looks(busy: &mut BusyPoll) -> Looks {
        LOOKING.fetch_add(1, Ordering::Relaxed);
        busy.look(Place)
    }
}
