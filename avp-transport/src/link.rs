//! The traits that every transport implements. All are object-safe; futures are boxed.

use std::fmt;
use std::future::Future;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::pin::Pin;

use avp_wire::{EncodedFrame, Frame, FrameHead};

use crate::connection::Connection;
use crate::error::TransportError;
use crate::url::TransportUrl;

/// A boxed future, as object-safe async methods return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a fallible operation on a transport gives.
pub type Result<T, E = TransportError> = std::result::Result<T, E>;

/// The sending half of an ordered stream of frames.
///
/// Back-pressure: `send` is pending while the peer takes nothing, up to the frame deadline. Dropping a future of this
/// trait never breaks the stream: a frame of which no byte has gone is not sent; one that was begun is completed by
/// the next call.
pub trait FrameSender: Send + fmt::Debug {
    /// Sends a frame and everything fed before it.
    fn send(&mut self, frame: EncodedFrame) -> BoxFuture<'_, Result<()>>;

    /// Like [`send`](Self::send), but may hold small frames back so that many go out together; call
    /// [`flush`](Self::flush) after the last.
    fn feed(&mut self, frame: EncodedFrame) -> BoxFuture<'_, Result<()>> {
        self.send(frame)
    }

    /// Passes a descriptor beside the frames, before those that are sent later; `false`, and the descriptor closed, where the
    /// transport cannot.
    #[cfg(target_os = "linux")]
    fn pass(&mut self, _token: u64, _descriptor: OwnedFd) -> BoxFuture<'_, Result<bool>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// Sends what was held back.
    fn flush(&mut self) -> BoxFuture<'_, Result<()>>;

    /// Flushes and tells the peer that no frame will follow; its receiver then gives `None`.
    fn finish(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// The receiving half of an ordered stream of frames.
///
/// [`recv`](Self::recv) is the usual call. [`head`](Self::head) then [`payload`](Self::payload) or
/// [`refuse`](Self::refuse) lets the caller judge a frame before memory is spent on it. Dropping a future of this trait
/// loses nothing: the next call goes on where it stopped.
pub trait FrameReceiver: Send + fmt::Debug {
    /// Waits for the head of the next frame; `None` once the peer has finished. Until `payload` or `refuse` is called
    /// it gives the same head again.
    fn head(&mut self) -> BoxFuture<'_, Result<Option<&FrameHead>>>;

    /// Receives and checks the payload that belongs to the pending head.
    fn payload(&mut self) -> BoxFuture<'_, Result<Frame>>;

    /// Discards the payload that belongs to the pending head. Counts against
    /// [`Budgets::rejects`](crate::Budgets::rejects).
    fn refuse(&mut self) -> BoxFuture<'_, Result<()>>;

    /// The next frame; `None` once the peer has finished.
    fn recv(&mut self) -> BoxFuture<'_, Result<Option<Frame>>> {
        Box::pin(async move {
            match self.head().await? {
                Some(_) => self.payload().await.map(Some),
                None => Ok(None),
            }
        })
    }

    /// Narrows what is accepted while the peer is unknown: frames of at most `bytes` in all, until
    /// [`unrestrict`](Self::unrestrict).
    fn restrict(&mut self, bytes: u64);

    /// Ends the restriction.
    fn unrestrict(&mut self);

    /// Reads and drops whatever still comes, until the peer finishes. The caller sets the deadline.
    fn drain(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// Both directions of an ordered stream of frames.
pub type Halves = (Box<dyn FrameSender>, Box<dyn FrameReceiver>);

/// Further ordered streams of frames beside a connection's first, both ways each, which do not wait for one another.
/// Frames on them draw on the budgets of the whole connection.
pub trait Streams: Send + Sync + fmt::Debug {
    /// Opens a stream. The peer learns of it by the first frame on it; waits while it has too many.
    fn open(&self) -> BoxFuture<'_, Result<Halves>>;

    /// The next stream that the peer opened. Dropping the future loses none.
    fn accept(&self) -> BoxFuture<'_, Result<Halves>>;
}

/// Opens connections over one kind of transport.
pub trait Connector: Send + Sync + fmt::Debug {
    /// Reaches the peer at `url`.
    fn connect<'a>(&'a self, url: &'a TransportUrl) -> BoxFuture<'a, Result<Connection>>;
}

/// Accepts connections at one address.
pub trait Listener: Send + Sync + fmt::Debug {
    /// The next connection. It has not negotiated: nothing is known about the peer but its address. Errors are those of
    /// the listener; a peer that goes away at once is skipped. Dropping the future loses no connection.
    fn accept(&self) -> BoxFuture<'_, Result<Connection>>;

    /// Where this listens, with the port that was taken.
    fn local_url(&self) -> &TransportUrl;
}
