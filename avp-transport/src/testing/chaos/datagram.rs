//! Datagrams that get lost, overtaken, doubled, changed and cut.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::testing::datagrams::Fate;
use crate::testing::dice::Dice;

/// How often each thing happens to the datagrams of a direction, drawn for each flow, and when all end.
#[derive(Debug)]
pub(super) struct Unruly {
    dice: Dice,
    drop: f64,
    delay: f64,
    duplicate: f64,
    flip: f64,
    truncate: f64,
    /// Datagrams after which none passes.
    last: u64,
}

impl Unruly {
    pub(super) fn draw(mut dice: Dice) -> Self {
        // A flow in four is untouched, the others have up to so much of everything.
        let much = if dice.chance(0.25) { 0.0 } else { 1.0 };
        let mut up_to = |most: f64| much * most * (dice.below(1000) as f64 / 1000.0);
        let [drop, delay, duplicate] = [up_to(0.1), up_to(0.2), up_to(0.1)];
        let [flip, truncate] = [up_to(0.05), up_to(0.05)];
        let last = if dice.chance(0.15) { dice.below_by_magnitude(1000) } else { u64::MAX };
        Self { dice, drop, delay, duplicate, flip, truncate, last }
    }
}

impl Fate for Unruly {
    fn decide(&mut self, datagram: Bytes, now: Instant, deliver: &mut Vec<(Instant, Bytes)>) {
        self.last = self.last.saturating_sub(1);
        if self.last == 0 || self.dice.chance(self.drop) {
            return;
        }
        let mut datagram = datagram;
        if self.dice.chance(self.flip) && !datagram.is_empty() {
            let mut changed = datagram.to_vec();
            let at = self.dice.below(changed.len() as u64) as usize;
            changed[at] ^= 1 << self.dice.below(8);
            datagram = changed.into();
        }
        if self.dice.chance(self.truncate) {
            datagram.truncate(self.dice.below(datagram.len() as u64) as usize);
        }
        if self.dice.chance(self.duplicate) {
            let later = self.dice.time(Duration::from_millis(20));
            deliver.push((now + later, datagram.clone()));
        }
        let late = self.dice.chance(self.delay);
        let due = if late { now + self.dice.time(Duration::from_millis(20)) } else { now };
        deliver.push((due, datagram));
    }
}
