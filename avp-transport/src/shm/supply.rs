//! What the peer sends, waited for no longer than it may keep us waiting.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use super::ahead::Ahead;
use super::fault::ShmFault;
use super::link::Incoming;
use crate::error::{PeerFault, TransportError};
use crate::link::Result;
use crate::patience::Patience;

/// Bytes and descriptors that were read and not used yet, and where more come from.
pub(super) struct Supply {
    incoming: Incoming,
    ahead: Ahead,
    /// Descriptors whose record has not come whole.
    descriptors: VecDeque<OwnedFd>,
    patience: Patience,
}

impl Supply {
    pub(super) fn new(incoming: Incoming, patience: Patience) -> Self {
        let ahead = Ahead::new();
        Self { incoming, ahead, descriptors: VecDeque::new(), patience }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.ahead.bytes()
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.ahead.consume(count);
    }

    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    pub(super) fn has_descriptors(&self) -> bool {
        !self.descriptors.is_empty()
    }

    /// The peer's time starts over.
    pub(super) fn be_patient(&mut self) {
        self.patience.reset();
    }

    /// One read; 0 at the end. The caller sets the deadline.
    pub(super) async fn read(&mut self) -> io::Result<usize> {
        self.ahead.read(&mut self.incoming, 1, &mut self.descriptors).await
    }

    /// One read of what nobody wants; 0 at the end. The caller sets the deadline.
    pub(super) async fn discard(&mut self) -> io::Result<usize> {
        self.ahead.clear();
        let read = self.read().await;
        self.descriptors.clear();
        read
    }

    /// Reads until `needed` bytes of `expected` are there. An error is the connection's end.
    pub(super) async fn need(&mut self, peer: &str, needed: usize, expected: usize) -> Result<()> {
        while self.ahead.bytes().len() < needed {
            let Self { incoming, ahead, descriptors, patience } = self;
            match patience.wait(ahead.read(incoming, needed, descriptors)).await {
                Some(Err(source)) if is_excess(&source) => return Err(broken(peer, source)),
                read => patience.judge(read, peer, ahead.bytes().len(), expected)?,
            }
        }
        Ok(())
    }
}

/// A read failed: more descriptors than may come, or the connection broke.
pub(super) fn broken(peer: &str, source: io::Error) -> TransportError {
    let peer = peer.to_owned();
    if is_excess(&source) {
        return PeerFault::SharedMemory { peer, fault: ShmFault::ExtraDescriptor }.into();
    }
    TransportError::broken(peer, source)
}

fn is_excess(source: &io::Error) -> bool {
    source.kind() == io::ErrorKind::InvalidData
}
