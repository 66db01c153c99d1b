//! Waiting with a deadline that a slow peer cannot stretch and a slow caller cannot use up.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use avp_wire::Limits;
use tokio::time::{Instant, timeout};

use crate::error::{Deadline, LimitExceeded, PeerFault, TransportError};
use crate::link::Result;
use crate::telemetry::{Direction, Meter};

/// How long a peer may keep us waiting within one frame: a fixed allowance, and a second for each `min_rate` bytes
/// that it moved. Only time spent pending counts, so data that is already here never times out.
#[derive(Debug)]
pub(crate) struct Patience {
    allowance: Duration,
    min_rate: u64,
    moved: u64,
    waited: Duration,
    meter: Meter,
    direction: Direction,
}

impl Patience {
    /// `meter` is told of single waits that are long.
    pub(crate) fn new(limits: &Limits, meter: Meter, direction: Direction) -> Self {
        Self {
            allowance: limits.frame_timeout,
            min_rate: limits.min_rate.max(1),
            moved: 0,
            waited: Duration::ZERO,
            meter,
            direction,
        }
    }

    /// Starts over for the next frame.
    pub(crate) fn reset(&mut self) {
        self.moved = 0;
        self.waited = Duration::ZERO;
    }

    /// Counts bytes that the peer delivered or took.
    pub(crate) fn moved(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    fn left(&self) -> Duration {
        let whole = self.allowance.saturating_add(Duration::from_secs(self.moved / self.min_rate));
        whole.saturating_sub(self.waited)
    }

    /// Runs one wait; `None` when the peer has used up its time. The time counts also when this future is dropped,
    /// so that a caller who cancels and retries does not grant the peer more.
    pub(crate) async fn wait<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        // The ready path reads no clock and arms no timer.
        if let Poll::Ready(value) = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await {
            return Some(value);
        }
        let left = self.left();
        let Self { waited, meter, direction, .. } = self;
        let _clock = Clock { start: Instant::now(), waited, meter, direction: *direction };
        timeout(left, future).await.ok()
    }

    /// Takes in what a wait for one read gave, within a frame of which `got` of `expected` bytes are there. An error is
    /// the end of the connection.
    pub(crate) fn judge(
        &mut self,
        read: Option<io::Result<usize>>,
        peer: &str,
        got: usize,
        expected: usize,
    ) -> Result<()> {
        match read {
            Some(Ok(bytes @ 1..)) => {
                self.moved(bytes);
                Ok(())
            }
            Some(Err(source)) if source.kind() == io::ErrorKind::Interrupted => Ok(()),
            Some(Err(source)) => Err(TransportError::broken(peer.to_owned(), source)),
            Some(Ok(_)) => {
                let (peer, got, expected) = (peer.to_owned(), to_u64(got), to_u64(expected));
                Err(PeerFault::Truncated { peer, got, expected }.into())
            }
            None => Err(self.exhausted(peer, Deadline::Receive, got, expected).into()),
        }
    }

    /// That the peer has used up its time, within a frame of which `got` of `expected` bytes have moved; 0 are expected
    /// where that is not known.
    pub(crate) fn exhausted(
        &self,
        peer: &str,
        which: Deadline,
        got: impl TryInto<u64>,
        expected: impl TryInto<u64>,
    ) -> LimitExceeded {
        let (peer, after) = (peer.to_owned(), self.waited);
        LimitExceeded::Deadline { peer, which, after, got: to_u64(got), expected: to_u64(expected) }
    }
}

fn to_u64(len: impl TryInto<u64>) -> u64 {
    len.try_into().unwrap_or(u64::MAX)
}

struct Clock<'a> {
    start: Instant,
    waited: &'a mut Duration,
    meter: &'a Meter,
    direction: Direction,
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        let wait = self.start.elapsed();
        *self.waited = self.waited.saturating_add(wait);
        self.meter.waited(self.direction, wait);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{advance, sleep};

    use super::*;
    use crate::url::Scheme;

    fn patience() -> Patience {
        Patience::new(&Limits::default(), Meter::requests(Scheme::Memory), Direction::Sent)
    }

    // spec: limits 10.1
    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up_after_the_frame_deadline() {
        let start = Instant::now();
        assert_eq!(patience().wait(pending::<()>()).await, None);
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    // spec: limits 10.1
    #[tokio::test(start_paused = true)]
    async fn a_trickle_below_the_minimum_rate_ends_and_one_above_goes_on() {
        for (bytes, survives) in [(1, false), (128 << 10, true)] {
            let mut patience = patience();
            let mut rounds = 0;
            while rounds < 600 && patience.wait(sleep(Duration::from_secs(1))).await.is_some() {
                patience.moved(bytes);
                rounds += 1;
            }
            assert_eq!(rounds == 600, survives, "{bytes} bytes a second: {rounds} rounds");
        }
    }

    // spec: limits 10.1
    #[tokio::test(start_paused = true)]
    async fn time_between_waits_is_the_callers_and_does_not_count() {
        let mut patience = patience();
        for _ in 0..10 {
            advance(Duration::from_secs(60)).await;
            assert_eq!(patience.wait(ready(7)).await, Some(7));
            assert_eq!(patience.wait(sleep(Duration::from_millis(1))).await, Some(()));
        }
        assert!(patience.waited < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_waits_count() {
        let mut patience = patience();
        for _ in 0..29 {
            assert!(timeout(Duration::from_secs(1), patience.wait(pending::<()>())).await.is_err());
        }
        let start = Instant::now();
        assert_eq!(patience.wait(pending::<()>()).await, None);
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}
