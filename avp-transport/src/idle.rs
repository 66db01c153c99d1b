//! Waiting for the next frame: not for ever, and awake for a moment where frames follow one another closely.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::busy_poll::BusyPoll;
use crate::error::{Deadline, LimitExceeded, TransportError};
use crate::options::Timeouts;

/// How a receiver waits between frames.
#[derive(Debug)]
pub(crate) struct IdleWait {
    deadline: Duration,
    busy: BusyPoll,
}

impl IdleWait {
    pub(crate) fn new(timeouts: &Timeouts) -> Self {
        // Only the runtime can tell what has come, so it has a turn after each look.
        Self { deadline: timeouts.idle, busy: BusyPoll::new(timeouts.busy_poll, Duration::ZERO) }
    }

    /// What `future` gives within the idle deadline, looked for awake first where that pays.
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
        if let Some(mut looks) = self.busy.begin() {
            while looks.again().await {
                if let Poll::Ready(value) = once(&mut future).await {
                    self.busy.found(&looks);
                    return Ok(value);
                }
            }
        }
        let start = Instant::now();
        let value = self.sleep(peer, future).await?;
        self.busy.slept(start.elapsed());
        Ok(value)
    }

    /// What `future` gives within the idle deadline.
    pub(crate) async fn sleep<T>(
        &self,
        peer: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, TransportError> {
        let after = self.deadline;
        timeout(after, future).await.map_err(|_| {
            let (peer, which) = (peer.to_owned(), Deadline::Idle);
            LimitExceeded::Deadline { peer, which, after, got: 0, expected: 0 }.into()
        })
    }
}

/// Polls once.
async fn once<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
