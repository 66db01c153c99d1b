//! Bodies: what goes out is handed over in pieces that are never copied, what comes in is read like a socket.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use avp_wire::EncodedFrame;
use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;

use super::tuning::PIECE;
use crate::bodies::Room;
use crate::error::LimitExceeded;

/// How far a body has gone out.
#[derive(Debug, Default)]
pub(super) struct Progress {
    handed_over: AtomicU64,
    more: Notify,
}

impl Progress {
    /// Waits until more has gone; gives how much has in all.
    pub(super) async fn moved(&self) -> u64 {
        self.more.notified().await;
        self.handed_over.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.handed_over.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.more.notify_one();
    }
}

/// The body of a request or answer of this side, whole in memory.
#[derive(Debug, Default)]
pub(super) struct OutBody {
    parts: VecDeque<Bytes>,
    progress: Option<Arc<Progress>>,
}

impl OutBody {
    pub(super) fn of_frame(frame: EncodedFrame) -> Self {
        let parts = [frame.head, frame.payload].into_iter().filter(|part| !part.is_empty()).collect();
        Self { parts, progress: None }
    }

    /// Tells `progress` of each piece that is taken.
    pub(super) fn watched(self, progress: Arc<Progress>) -> Self {
        Self { progress: Some(progress), ..self }
    }

    pub(super) fn len(&self) -> u64 {
        self.parts.iter().map(|part| u64::try_from(part.len()).unwrap_or(u64::MAX)).sum()
    }
}

impl<T: Into<Bytes>> From<T> for OutBody {
    fn from(whole: T) -> Self {
        let whole = whole.into();
        Self { parts: (!whole.is_empty()).then_some(whole).into_iter().collect(), progress: None }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(part) = self.parts.front_mut() else {
            return Poll::Ready(None);
        };
        let piece = part.split_to(part.len().min(PIECE));
        if part.is_empty() {
            self.parts.pop_front();
        }
        if let Some(progress) = &self.progress {
            progress.add(piece.len());
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

/// The body of the peer, as a stream of bytes.
pub(super) struct BodyReader {
    body: Incoming,
    piece: Bytes,
    charge: Option<Charge>,
}

/// What is charged for a body while it arrives.
struct Charge {
    room: Arc<Room>,
    came: u64,
    /// Most that may be in the connection's buffers and has not been read.
    ahead: u64,
}

impl Charge {
    fn take(&mut self, bytes: usize, to_come: u64) -> Result<(), LimitExceeded> {
        self.came = self.came.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.room.hold(self.came, self.came.saturating_add(self.ahead.min(to_come)))
    }
}

impl BodyReader {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, piece: Bytes::new(), charge: None }
    }

    /// Charges what comes to `room`, and what may be in the connection's buffers, at most `ahead`.
    ///
    /// # Errors
    /// There is no room to begin. The reader goes on without being charged, to discard the body.
    pub(super) fn charge(&mut self, room: Arc<Room>, ahead: u64) -> Result<(), LimitExceeded> {
        let mut charge = Charge { room, came: 0, ahead };
        charge.take(0, self.to_come())?;
        self.charge = Some(charge);
        Ok(())
    }

    /// The same body, of which nothing is kept any more.
    pub(super) fn discarding(self) -> Self {
        Self { charge: None, ..self }
    }

    /// Bytes that are still to come, as far as the peer has announced them.
    fn to_come(&self) -> u64 {
        match self.body.is_end_stream() {
            true => 0,
            false => self.body.size_hint().exact().unwrap_or(u64::MAX),
        }
    }

    /// Whether nothing is to come.
    pub(super) fn is_finished(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The length that the peer has announced.
    pub(super) fn announced(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }
}

impl AsyncRead for BodyReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.piece.has_remaining() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // Trailers are of no use here.
                Some(Ok(frame)) => {
                    self.piece = frame.into_data().unwrap_or_default();
                    let (bytes, to_come) = (self.piece.len(), self.to_come());
                    if let Some(Err(full)) = self.charge.as_mut().map(|charge| charge.take(bytes, to_come)) {
                        return Poll::Ready(Err(io::Error::other(full)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        while self.piece.has_remaining() && buf.remaining() > 0 {
            let count = self.piece.len().min(buf.remaining());
            buf.put_slice(self.piece.get(..count).unwrap_or_default());
            self.piece.advance(count);
        }
        Poll::Ready(Ok(()))
    }
}
