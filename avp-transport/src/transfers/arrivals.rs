//! Further streams that the peer opens: each is brought to the transfer that its first frame names.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use avp_wire::ext;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::routes::{Board, End};
use crate::link::{FrameReceiver, FrameSender, Streams};

/// The task that takes streams in. Dropping it ends the task.
#[derive(Debug)]
pub(super) struct Arrivals(AbortHandle);

impl Arrivals {
    /// Gives up the connection after more than `refusals` streams that nobody wants.
    pub(super) fn start(
        streams: Arc<dyn Streams>,
        board: Arc<Board>,
        patience: Duration,
        refusals: u32,
    ) -> Self {
        Self(tokio::spawn(take_in(streams, board, patience, refusals)).abort_handle())
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A stream whose first frame has come, and the transfer that it names.
type Named = (String, Box<dyn FrameSender>, Box<dyn FrameReceiver>);

async fn take_in(streams: Arc<dyn Streams>, board: Arc<Board>, patience: Duration, refusals: u32) {
    // Each waits for its first head on its own: one that stalls holds up no other. The transport bounds their number.
    let mut nameless = JoinSet::new();
    let mut refused = 0_u32;
    let mut open = true;
    while open || !nameless.is_empty() {
        tokio::select! {
            stream = streams.accept(), if open => match stream {
                Ok((sender, receiver)) => {
                    let mut naming = Box::pin(named(sender, receiver, patience));
                    // Most name their transfer at once; so these are taken in the order in which they were opened.
                    match poll_fn(|cx| Poll::Ready(naming.as_mut().poll(cx))).await {
                        Poll::Ready(stream) => refused += u32::from(!settle(&board, stream)),
                        Poll::Pending => {
                            nameless.spawn(naming);
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no further streams");
                    open = false;
                }
            },
            Some(done) = nameless.join_next() => refused += u32::from(!settle(&board, done.ok().flatten())),
        }
        if refused > refusals {
            tracing::debug!(refused, "gave up a connection that opens streams nobody wants");
            return board.end(End::Failed);
        }
    }
    board.routes().streams_over();
    board.news.notify_waiters();
}

/// Waits for the first head; `None` where none comes.
async fn named(
    sender: Box<dyn FrameSender>,
    mut receiver: Box<dyn FrameReceiver>,
    patience: Duration,
) -> Option<Named> {
    let head = timeout(patience, receiver.head()).await.ok()?.ok()??;
    let id = head.metadata.extra.get(ext::TRANSFER).cloned().unwrap_or_default();
    Some((id, sender, receiver))
}

fn settle(board: &Board, stream: Option<Named>) -> bool {
    let wanted = {
        let mut routes = board.routes();
        let wanted = stream.is_some_and(|(id, sender, receiver)| routes.attach(&id, sender, receiver));
        routes.settle();
        wanted
    };
    board.news.notify_waiters();
    wanted
}
