//! What lies under hyper: a socket with the bytes that were read ahead in front, given up when its peer takes nothing.

use std::io::{self, Cursor, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::TlsStream;

use super::tuning::TURN;
use crate::connection::{Connection, Peer};
use crate::options::Options;
use crate::stream;
use crate::telemetry::{Meter, Side};
use crate::tls::TlsFault;
use crate::url::Scheme;

/// A TCP socket, or TLS over one.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Carries frames from here on; `ahead` was read already.
    fn into_connection(self, ahead: Bytes, peer: Peer, options: &Options, side: Side) -> Connection;
}

impl Socket for TcpStream {
    fn into_connection(self, ahead: Bytes, peer: Peer, options: &Options, side: Side) -> Connection {
        let (read, write) = self.into_split();
        let meter = Meter::connection(Scheme::Http, side, &peer);
        stream::metered(AsyncReadExt::chain(Cursor::new(ahead), read), write, peer, options, meter)
    }
}

impl Socket for TlsStream<TcpStream> {
    fn into_connection(self, ahead: Bytes, peer: Peer, options: &Options, side: Side) -> Connection {
        let (read, write) = tokio::io::split(self);
        let meter = Meter::connection(Scheme::Https, side, &peer);
        stream::metered(AsyncReadExt::chain(Cursor::new(ahead), read), write, peer, options, meter)
    }
}

/// The socket as hyper gets it.
pub(super) struct Link<S> {
    ahead: Bytes,
    io: S,
    /// How long the peer may take nothing while something is to be written.
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    clues: Clues,
    /// Bytes read since the reader last had to wait.
    at_once: usize,
}

/// What a connection shows of the peer that hyper's errors do not tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Clues(Arc<(OnceLock<TlsFault>, OnceLock<[u8; 2]>)>);

impl Clues {
    /// Why the peer's TLS has refused this side, once it has.
    pub(super) fn refused(&self) -> Option<&TlsFault> {
        self.0.0.get()
    }

    /// The first bytes of the peer, once they are there.
    pub(super) fn opening(&self) -> Option<[u8; 2]> {
        self.0.1.get().copied()
    }

    fn note(&self, read: &io::Result<()>, bytes: &[u8]) {
        let (refused, opening) = &*self.0;
        if let Err(error) = read
            && let Some(fault) = TlsFault::within(error)
        {
            refused.get_or_init(|| fault);
        }
        if let (None, Some(first)) = (opening.get(), bytes.first_chunk()) {
            opening.get_or_init(|| *first);
        }
    }
}

impl<S> Link<S> {
    pub(super) fn new(ahead: Bytes, io: S, patience: Duration) -> Self {
        Self { ahead, io, patience, stalled: None, clues: Clues::default(), at_once: 0 }
    }

    pub(super) fn clues(&self) -> Clues {
        self.clues.clone()
    }

    /// The socket, and what was read ahead and not taken.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.io, self.ahead)
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        if stalled.deadline() <= Instant::now() || stalled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no data")));
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Link<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.has_remaining() {
            let count = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        if self.at_once >= TURN {
            self.at_once = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        match &read {
            Poll::Ready(_) => self.at_once += buf.filled().len() - before,
            Poll::Pending => self.at_once = 0,
        }
        if let Poll::Ready(read) = &read {
            self.clues.note(read, buf.filled().get(before..).unwrap_or_default());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Link<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.watch(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.io).poll_shutdown(cx);
        self.watch(cx, done)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (near, mut far) = duplex(10);
        let mut link = Link::new(Bytes::from_static(b"ahead "), near, Duration::from_secs(30));
        far.write_all(b"behind").await.unwrap();
        let mut text = [0; 12];
        link.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"ahead behind");
        let start = Instant::now();
        let error = link.write_all(&[0; 11]).await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, 30));
    }
}
