//! One direction of a link for datagrams.

use bytes::Bytes;
use tokio::time::Instant;

use super::Link;
use crate::testing::bucket::Bucket;
use crate::testing::datagrams::Fate;
use crate::testing::dice::Dice;

pub(super) struct Hop {
    link: Link,
    bucket: Bucket,
    dice: Dice,
}

impl Hop {
    pub(super) fn new(link: Link, dice: Dice) -> Self {
        Self { link, bucket: link.bucket(), dice }
    }
}

impl Fate for Hop {
    fn decide(&mut self, datagram: Bytes, now: Instant, deliver: &mut Vec<(Instant, Bytes)>) {
        if self.bucket.backlog(now) > self.bucket.time_of(self.link.queue) {
            return;
        }
        // Lost on the way, so it takes its time on the line as well.
        let mut due = self.bucket.send(datagram.len(), now) + self.link.delay;
        if self.dice.chance(self.link.loss) {
            return;
        }
        if self.dice.chance(self.link.reorder) {
            due += self.dice.time(self.link.delay);
        }
        if self.dice.chance(self.link.duplicate) {
            deliver.push((due, datagram.clone()));
        }
        deliver.push((due, datagram));
    }
}
