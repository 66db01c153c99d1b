//! Frames over any ordered byte stream: TCP, TLS, the receiving half of QUIC streams, pipes in tests.

mod filling;
mod reader;
mod writer;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{Connection, Peer};
use crate::options::Options;
use crate::sender::Sender;
use crate::telemetry::{Carrier, Meter, Side};
pub(crate) use filling::memory_of;
pub(crate) use reader::StreamReceiver;
use writer::StreamOutbox;

/// Makes a connection of the two directions of a byte stream. For transports that are not built in, and for tests:
/// give it the halves of [`tokio::io::duplex`].
///
/// The writer should support vectored writes, or each frame costs two writes.
#[must_use]
pub fn connection_over<R, W>(read: R, write: W, peer: Peer, options: &Options) -> Connection
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let meter = Meter::connection(Carrier::Stream, Side::Neither, &peer);
    metered(read, write, peer, options, meter)
}

/// The same for transports of this crate, which have a name.
pub(crate) fn metered<R, W>(read: R, write: W, peer: Peer, options: &Options, meter: Meter) -> Connection
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let sender = Sender::over(StreamOutbox::new(write), peer.to_string(), options, meter.clone());
    let receiver = StreamReceiver::new(read, peer.to_string(), options, meter.clone());
    Connection::metered(peer, Box::new(sender), Box::new(receiver), options, meter)
}
