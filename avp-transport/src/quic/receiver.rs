//! The receiving half of a QUIC stream: the one of any byte stream, over a stream that may still have to come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use avp_wire::{Frame, FrameHead};
use quinn::{ConnectionError, RecvStream};
use tokio::io::{AsyncRead, ReadBuf};

use super::link::Link;
use super::{CANCELLED, fault};
use crate::intake::Intake;
use crate::link::{BoxFuture, FrameReceiver, Result};
use crate::stream::StreamReceiver;

/// Frames off a QUIC stream.
#[derive(Debug)]
pub(super) struct QuicReceiver {
    inner: StreamReceiver<Incoming>,
    link: Arc<Link>,
    /// While the peer is unknown its window stays narrow.
    restricted: bool,
    is_first: bool,
}

impl QuicReceiver {
    /// Over the connection's first stream, which may still have to come.
    pub(super) fn first(link: Arc<Link>) -> Self {
        let waiting = Arc::clone(&link);
        let stream = Box::pin(async move { waiting.first_recv().await });
        Self::over(Incoming::Awaited(stream), link, true)
    }

    /// Over a further stream.
    pub(super) fn further(link: Arc<Link>, stream: RecvStream) -> Self {
        Self::over(Incoming::Open(stream), link, false)
    }

    fn over(stream: Incoming, link: Arc<Link>, is_first: bool) -> Self {
        let (peer, meter) = (link.peer().to_owned(), link.meter().clone());
        let intake = Intake::sharing(peer, link.options(), link.account(), meter);
        let inner = StreamReceiver::with_intake(stream, intake, link.options());
        Self { inner, link, restricted: false, is_first }
    }

    /// Whoever receives without a restriction knows the peer, or does not care.
    fn widen(&self) {
        if !self.restricted {
            self.link.widen();
        }
    }
}

impl FrameReceiver for QuicReceiver {
    fn head(&mut self) -> BoxFuture<'_, Result<Option<&FrameHead>>> {
        self.widen();
        self.inner.head()
    }

    fn payload(&mut self) -> BoxFuture<'_, Result<Frame>> {
        self.widen();
        self.inner.payload()
    }

    fn refuse(&mut self) -> BoxFuture<'_, Result<()>> {
        self.inner.refuse()
    }

    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Frame>>> {
        self.widen();
        self.inner.recv()
    }

    fn restrict(&mut self, bytes: u64) {
        self.restricted = true;
        self.inner.restrict(bytes);
    }

    fn unrestrict(&mut self) {
        self.restricted = false;
        self.inner.unrestrict();
        self.link.widen();
    }

    fn drain(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.inner.drain().await?;
            // After this the connection is closed, so what this side sent has to be there first.
            if self.is_first { self.link.delivered().await } else { Ok(()) }
        })
    }
}

/// Bytes of a stream that is there, or is waited for.
enum Incoming {
    Awaited(BoxFuture<'static, Result<RecvStream, ConnectionError>>),
    Open(RecvStream),
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Self::Awaited(stream) = &mut *self {
            let stream = ready!(stream.as_mut().poll(cx)).map_err(|error| fault::lost(&error))?;
            *self = Self::Open(stream);
        }
        match &mut *self {
            Self::Open(stream) => stream.poll_read_buf(cx, buffer).map_err(|error| fault::reading(&error)),
            Self::Awaited(_) => Poll::Pending,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Self::Open(stream) = self {
            // Fails where the stream has ended, which is as well.
            let _ = stream.stop(CANCELLED);
        }
    }
}
