//! Turns at what costs the processor much for a peer that is not known yet: TLS's key exchange and signature.
//!
//! A flood of connections would otherwise take all cores from those that are established. Half of the cores are enough
//! for handshakes, and after each of them everything else that is ready goes first. A listener accepts no more while
//! several wait: they keep their place in the system's queue, and are not dropped for what is this side's slowness.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

/// Waiting ones beyond which no more are accepted.
const CROWD: usize = 8;

/// The turns of one listener. First come, first served.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Semaphore,
    waiting: AtomicUsize,
    fewer: Notify,
}

impl Default for Turns {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self::at_once((cores / 2).max(1))
    }
}

impl Turns {
    pub(crate) fn at_once(count: usize) -> Self {
        Self { free: Semaphore::new(count), waiting: AtomicUsize::new(0), fewer: Notify::new() }
    }

    /// Waits until few wait for their turn. Dropping the future loses nothing.
    pub(crate) async fn ready(&self) {
        loop {
            let mut fewer = pin!(self.fewer.notified());
            fewer.as_mut().enable();
            if self.waiting.load(Ordering::Relaxed) < CROWD {
                return;
            }
            fewer.await;
        }
    }

    /// Waits for a turn, which lasts until what this gives is dropped.
    pub(crate) async fn hold(&self) -> Option<SemaphorePermit<'_>> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(self);
        // Never closed.
        self.free.acquire().await.ok()
    }
}

/// One that waits, until it has its turn or gives up.
struct Waiting<'a>(&'a Turns);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.fewer.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_are_accepted_while_several_wait_for_their_turn() {
        let turns = Arc::new(Turns::at_once(1));
        let held = turns.hold().await;
        let wait = || {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { drop(turns.hold().await) })
        };
        let mut waiting: Vec<_> = (1..CROWD).map(|_| wait()).collect();
        yield_now().await;
        timeout(Duration::from_secs(1), turns.ready()).await.unwrap();
        waiting.push(wait());
        yield_now().await;
        assert!(timeout(Duration::from_secs(1), turns.ready()).await.is_err());
        // One that gives up makes room, as does one whose turn comes.
        waiting.pop().unwrap().abort();
        timeout(Duration::from_secs(1), turns.ready()).await.unwrap();
        waiting.push(wait());
        drop(held);
        timeout(Duration::from_secs(1), turns.ready()).await.unwrap();
        for task in waiting {
            task.await.unwrap();
        }
    }
}
