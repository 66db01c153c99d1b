//! The streams that one transfer is received from.

use std::future::poll_fn;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;

use avp_wire::Frame;

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

    /// The next frame of any of the streams, and of which. Dropping the future loses nothing, since receivers keep what
    /// they have read.
    pub(super) async fn next(&mut self) -> (usize, Result<Option<Frame>>) {
        let Self { streams, turn } = self;
        let streams = streams.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let [only] = &mut streams[..] {
            return (0, only.recv().await);
        }
        let count = streams.len().max(1);
        let mut waiting: Vec<_> = streams.iter_mut().map(|stream| stream.recv()).collect();
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
