//! The congestion window of TCP Reno (RFC 5681), for streams whose real TCP does not see the link.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::SEGMENT;

/// RFC 6928.
const INITIAL: usize = 10 * SEGMENT;

#[derive(Debug)]
pub(super) struct Reno {
    window: usize,
    threshold: usize,
    in_flight: usize,
    /// When the acknowledgement of so many bytes comes, and whether they were lost at first.
    unacknowledged: VecDeque<(Instant, usize, bool)>,
    /// A loss of what was sent before this is answered already.
    recovered: Option<Instant>,
}

impl Reno {
    pub(super) fn new() -> Self {
        Self {
            window: INITIAL,
            threshold: usize::MAX,
            in_flight: 0,
            unacknowledged: VecDeque::new(),
            recovered: None,
        }
    }

    /// Until when nothing more may be sent; `None` where something may.
    pub(super) fn blocked(&mut self, now: Instant) -> Option<Instant> {
        while let Some(&(due, len, lost)) = self.unacknowledged.front()
            && due <= now
        {
            self.unacknowledged.pop_front();
            self.in_flight -= len;
            self.acknowledged(due, len, lost);
        }
        let (due, ..) = self.unacknowledged.front()?;
        (self.in_flight + SEGMENT > self.window).then_some(*due)
    }

    /// Bytes that may be sent now.
    pub(super) fn room(&self) -> usize {
        self.window.saturating_sub(self.in_flight).max(SEGMENT)
    }

    /// Counts what is sent, and when its acknowledgement will come.
    pub(super) fn sent(&mut self, len: usize, acknowledged: Instant, lost: bool) {
        self.in_flight += len;
        self.unacknowledged.push_back((acknowledged, len, lost));
    }

    fn acknowledged(&mut self, at: Instant, len: usize, lost: bool) {
        // One reduction for each window in which something was lost.
        if lost && self.recovered.is_none_or(|recovered| at > recovered) {
            self.threshold = (self.window / 2).max(2 * SEGMENT);
            self.window = self.threshold;
            self.recovered = self.unacknowledged.back().map(|(last, ..)| *last).or(Some(at));
        } else if self.window < self.threshold {
            self.window += len;
        } else {
            self.window += (SEGMENT * len / self.window).max(1);
        }
    }
}
