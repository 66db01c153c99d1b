//! Waiting for the next frame: not for ever, and awake for a moment where frames follow one another closely.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::timeout;

use crate::error::{Deadline, LimitExceeded, TransportError};
use crate::options::Timeouts;

/// How a receiver waits between frames.
///
/// A thread that sleeps takes tens of microseconds to be woken, more than a small frame takes altogether. So while the
/// frames before came soon, a wait goes on asking for [`Timeouts::busy_poll`], giving way to other tasks in between,
/// before it lets the thread sleep.
#[derive(Debug)]
pub(crate) struct IdleWait {
    deadline: Duration,
    busy_poll: Duration,
    /// Whether the last frame that was not there already came soon.
    soon: bool,
}

impl IdleWait {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        Self { deadline: timeouts.idle, busy_poll: timeouts.busy_poll, soon: false }
    }

    /// What `future` gives within the idle deadline.
    pub(crate) async fn wait<T>(
        &mut self,
        peer: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, TransportError> {
        let mut future = pin!(future);
        // The ready path reads no clock and arms no timer.
        if let Poll::Ready(value) = once(&mut future).await {
            return Ok(value);
        }
        let start = Instant::now();
        if self.soon {
            while start.elapsed() < self.busy_poll {
                yield_now().await;
                if let Poll::Ready(value) = once(&mut future).await {
                    return Ok(value);
                }
            }
        }
        self.soon = false;
        let after = self.deadline;
        let value = timeout(after, future).await.map_err(|_| {
            let (peer, which) = (peer.to_owned(), Deadline::Idle);
            LimitExceeded::Deadline { peer, which, after, got: 0, expected: 0 }
        })?;
        // Being woken is part of what this measures, so a frame that came within the window may show as twice that.
        self.soon = start.elapsed() < self.busy_poll.saturating_mul(2);
        Ok(value)
    }
}

/// Polls once.
async fn once<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
