//! Descriptors that the peer passed beside its frames (docs/spec/shm.md, 7), until a frame that names one is taken.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// Descriptors that wait to be claimed; with one more the oldest is closed.
pub(crate) const MAX_WAITING: usize = 8;

/// What was passed over one connection and not claimed.
#[derive(Debug, Default)]
pub(crate) struct Passed(Mutex<VecDeque<(u64, OwnedFd)>>);

impl Passed {
    /// Keeps a descriptor. Of two with the same token the later one counts.
    pub(crate) fn keep(&self, token: u64, descriptor: OwnedFd) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(other, _)| *other != token);
        if waiting.len() == MAX_WAITING {
            waiting.pop_front();
        }
        waiting.push_back((token, descriptor));
    }

    /// The descriptor with this token, once.
    pub(crate) fn claim(&self, token: u64) -> Option<OwnedFd> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = waiting.iter().position(|(other, _)| *other == token)?;
        waiting.remove(at).map(|(_, descriptor)| descriptor)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn descriptor() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_descriptor_is_claimed_once() {
        let passed = Passed::default();
        passed.keep(7, descriptor());
        assert!(passed.claim(8).is_none());
        assert!(passed.claim(7).is_some());
        assert!(passed.claim(7).is_none());
    }

    // spec: shm 7.3
    #[test]
    fn the_oldest_make_room() {
        let passed = Passed::default();
        for token in 0..20 {
            passed.keep(token, descriptor());
        }
        passed.keep(19, descriptor());
        let kept: Vec<u64> = (0..20).filter(|&token| passed.claim(token).is_some()).collect();
        assert_eq!(kept, (12..20).collect::<Vec<_>>());
    }
}
