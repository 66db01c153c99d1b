//! What the receiving side says about payloads. Views are dropped anywhere and at any time, so this never waits.

use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::segments::Spot;
use super::socket::Socket;
use super::wire::Word;

/// Brings words to the peer, in order.
#[derive(Debug)]
pub(super) struct Returns {
    channel: Arc<Socket>,
    /// Words that the socket did not take yet: at most two for each payload that memory was claimed for.
    waiting: Mutex<Vec<u8>>,
}

impl Returns {
    pub(super) fn new(channel: Arc<Socket>) -> Self {
        Self { channel, waiting: Mutex::default() }
    }

    pub(super) fn say(&self, word: Word) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.extend_from_slice(&word.encode());
        while !waiting.is_empty() {
            match rustix::net::send(&*self.channel, &waiting, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => drop(waiting.drain(..sent)),
                Err(Errno::INTR) => {}
                // It goes with the next word.
                Err(Errno::AGAIN) => return,
                // Nobody listens any more.
                Err(_) => waiting.clear(),
            }
        }
    }

    /// Tells the peer that nothing is received any more.
    pub(super) fn close(&self) {
        let _ = rustix::net::shutdown(&*self.channel, Shutdown::Write);
    }
}

/// A payload in the peer's memory; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Borrowed {
    pub(super) spot: Spot,
    pub(super) token: u64,
    pub(super) returns: Arc<Returns>,
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        self.spot.segment.bytes(self.spot.offset, self.spot.len)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.returns.say(Word::Released(self.token));
    }
}
