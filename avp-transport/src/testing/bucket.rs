//! The clock of a line of limited rate: when what is sent now has left it.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket. It says when bytes are through instead of waiting, so that timers which wake late cost no rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Bytes a second; `None` for a line without a limit.
    rate: Option<u64>,
    /// How long the line may have stood idle and still make up for it.
    credit: Duration,
    busy_until: Instant,
}

impl Bucket {
    /// `rate` in bytes a second. After a pause `burst` bytes go at once.
    pub(crate) fn new(rate: Option<u64>, burst: usize) -> Self {
        let credit = rate.map_or(Duration::ZERO, |rate| time_of(burst, rate));
        Self { rate, credit, busy_until: Instant::now() }
    }

    /// When the last of `len` bytes that come at `now` has left, behind all that came before.
    pub(crate) fn send(&mut self, len: usize, now: Instant) -> Instant {
        let Some(rate) = self.rate else { return now };
        let begin = self.busy_until.max(now.checked_sub(self.credit).unwrap_or(now));
        self.busy_until = begin + time_of(len, rate);
        self.busy_until.max(now)
    }

    /// How long what is sent now would wait before its first byte leaves.
    pub(crate) fn backlog(&self, now: Instant) -> Duration {
        self.busy_until.saturating_duration_since(now)
    }

    /// Time that `len` bytes take.
    pub(crate) fn time_of(&self, len: usize) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| time_of(len, rate))
    }
}

fn time_of(len: usize, rate: u64) -> Duration {
    Duration::from_secs_f64(len as f64 / rate.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_leave_at_the_rate_however_late_they_are_looked_at() {
        let mut bucket = Bucket::new(Some(125_000_000), 0);
        let start = Instant::now();
        let mut through = start;
        for _ in 0..1000 {
            through = bucket.send(125_000, start);
        }
        assert_eq!(through - start, Duration::from_secs(1));
        assert_eq!(bucket.backlog(start), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_earns_the_burst_and_no_more() {
        let mut bucket = Bucket::new(Some(1000), 500);
        advance(Duration::from_secs(10)).await;
        let now = Instant::now();
        assert_eq!(bucket.send(500, now), now);
        assert_eq!(bucket.send(1000, now), now + Duration::from_secs(1));
    }
}
