//! The streams that one transfer is received from.

use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use avp_wire::{Frame, ext};

use crate::connection::Peer;
use crate::error::{LimitExceeded, PeerFault, TransportError};
use crate::link::{FrameReceiver, Result};

/// Streams whose frames are taken as they come.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Never locked: it makes a transfer shareable, which receives exclusively.
    streams: Mutex<Vec<Box<dyn FrameReceiver>>>,
    /// Where the next look for a frame begins, so that no stream starves.
    turn: usize,
}

impl Sources {
    pub(super) fn push(&mut self, stream: Box<dyn FrameReceiver>) {
        self.streams().push(stream);
    }

    pub(super) fn remove(&mut self, at: usize) {
        self.streams().remove(at);
    }

    pub(super) fn is_empty(&mut self) -> bool {
        self.streams().is_empty()
    }

    /// The next frame of `transfer` off any of the streams, and off which. Dropping the future loses nothing, since
    /// receivers keep what they have read.
    pub(super) async fn next(&mut self, transfer: &str, peer: &Peer) -> (usize, Result<Option<Frame>>) {
        let Self { streams, turn } = self;
        let streams = streams.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let [only] = &mut streams[..] {
            return (0, take(only, transfer, peer).await);
        }
        let count = streams.len().max(1);
        let mut waiting: Vec<_> =
            streams.iter_mut().map(|stream| Box::pin(take(stream, transfer, peer))).collect();
        poll_fn(|cx| {
            for step in 0..count {
                let at = turn.wrapping_add(step) % count;
                if let Some(Poll::Ready(frame)) = waiting.get_mut(at).map(|frame| frame.as_mut().poll(cx)) {
                    *turn = at.wrapping_add(1);
                    return Poll::Ready((at, frame));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn streams(&mut self) -> &mut Vec<Box<dyn FrameReceiver>> {
        self.streams.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next frame off one stream. A frame that there is no memory for, or that is another transfer's, is refused, so that
/// the stream goes on behind it.
async fn take(stream: &mut Box<dyn FrameReceiver>, transfer: &str, peer: &Peer) -> Result<Option<Frame>> {
    let Some(head) = stream.head().await? else { return Ok(None) };
    let named = head.metadata.extra.get(ext::TRANSFER);
    let fault = if named.map(String::as_str) == Some(transfer) {
        match stream.payload().await {
            Err(error @ TransportError::Limit(LimitExceeded::Memory { .. })) => error,
            frame => return frame.map(Some),
        }
    } else {
        let (peer, transfer, named) = (peer.to_string(), transfer.to_owned(), named.cloned());
        PeerFault::OtherTransfer { peer, transfer, named }.into()
    };
    // Begun, and ended by what is received next: the fault is told before the rest of the frame has come.
    let mut refusing = stream.refuse();
    match poll_fn(|cx| Poll::Ready(refusing.as_mut().poll(cx))).await {
        Poll::Ready(Err(error)) => Err(error),
        _ => Err(fault),
    }
}
