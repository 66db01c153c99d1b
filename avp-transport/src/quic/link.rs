//! One QUIC connection and its streams, shared by the halves that use them.

use std::collections::VecDeque;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use quinn::{ConnectionError, RecvStream, SendStream, Side, VarInt};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::receiver::QuicReceiver;
use super::sender::QuicSender;
use super::{CANCELLED, fault};
use crate::budget::Account;
use crate::connection::{Connection, Peer};
use crate::error::TransportError;
use crate::link::{BoxFuture, Halves, Result, Streams};
use crate::options::Options;
use crate::telemetry::{self, Meter};
use crate::url::Scheme;

/// Both directions of a stream.
type Stream = (SendStream, RecvStream);
/// Resolves once the peer has everything, or takes no more.
type Delivery = BoxFuture<'static, Result<(), ConnectionError>>;

/// How long a peer may take to acknowledge what it has received (RFC 9000, 18.2).
const ACK_DELAY: Duration = Duration::from_millis(25);

/// A connection. It closes when this, its halves and its further streams are dropped and what they sent has arrived.
pub(super) struct Link {
    connection: quinn::Connection,
    peer: String,
    options: Options,
    account: Account,
    meter: Meter,
    arrived: Mutex<Arrived>,
    news: Notify,
    widened: AtomicBool,
    delivery: tokio::sync::Mutex<Option<Delivery>>,
    runtime: Handle,
}

/// Streams that nobody has taken yet.
#[derive(Default)]
struct Arrived {
    first_send: Option<SendStream>,
    first_recv: Option<RecvStream>,
    further: VecDeque<Stream>,
    /// Nothing will be sent on the first stream.
    forgone: bool,
}

/// A connection of frames over an established one. A client brings the first stream; a server's halves wait for it when
/// they are used.
pub(super) fn connection_over(
    connection: quinn::Connection,
    first: Option<Stream>,
    peer: Peer,
    options: &Options,
) -> Connection {
    let side = if first.is_some() { telemetry::Side::Client } else { telemetry::Side::Server };
    let meter = Meter::connection(Scheme::Quic, side, &peer);
    let (send, recv) = first.unzip();
    let arrived = Arrived { first_send: send, first_recv: recv, ..Arrived::default() };
    let link = Arc::new(Link {
        connection,
        peer: peer.to_string(),
        options: options.clone(),
        account: Account::new(options),
        meter: meter.clone(),
        arrived: Mutex::new(arrived),
        news: Notify::new(),
        widened: AtomicBool::new(false),
        delivery: tokio::sync::Mutex::default(),
        runtime: Handle::current(),
    });
    let sender = QuicSender::first(Arc::clone(&link));
    let receiver = QuicReceiver::first(Arc::clone(&link));
    Connection::metered(peer, Box::new(sender), Box::new(receiver), options, meter)
        .with_streams(Arc::new(Further(link)))
}

impl Link {
    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(super) fn account(&self) -> Account {
        self.account.clone()
    }

    /// The sending direction of the first stream, once it is there.
    pub(super) async fn first_send(&self) -> Result<SendStream, ConnectionError> {
        self.take(|arrived| arrived.first_send.take()).await
    }

    /// The receiving direction of the first stream, once it is there.
    pub(super) async fn first_recv(&self) -> Result<RecvStream, ConnectionError> {
        self.take(|arrived| arrived.first_recv.take()).await
    }

    /// Ends the sending direction of the first stream, whether it is there or still comes.
    pub(super) fn forgo_first_send(&self) {
        let send = {
            let mut arrived = self.arrived();
            arrived.forgone = true;
            arrived.first_send.take()
        };
        if let Some(send) = send {
            self.finish(send);
        }
    }

    /// Lets the peer send as much as the options say; before the handshake is done it may send little.
    pub(super) fn widen(&self) {
        if !self.widened.swap(true, Ordering::Relaxed) {
            self.connection.set_receive_window(VarInt::from_u32(self.options.quic.connection_window));
        }
    }

    /// Waits until what was sent on the first stream has arrived, or is not wanted.
    pub(super) async fn delivered(&self) -> Result<()> {
        let mut delivery = self.delivery.lock().await;
        let Some(arriving) = delivery.as_mut() else { return Ok(()) };
        let outcome = arriving.await;
        *delivery = None;
        match outcome {
            Err(error) if !fault::is_done(&error) => {
                Err(TransportError::broken(self.peer.clone(), fault::lost(&error)))
            }
            _ => Ok(()),
        }
    }

    /// Notes that the first stream was finished.
    pub(super) async fn finished(&self, stream: &SendStream) {
        *self.delivery.lock().await = Some(delivery(stream));
    }

    /// Ends a stream on which everything has been written.
    pub(super) fn finish(&self, mut stream: SendStream) {
        // Fails where it has ended already, which is as well.
        let _ = stream.finish();
        self.linger(stream);
    }

    /// Keeps the connection until what was sent on `stream` has arrived, at most for the close deadline.
    fn linger(&self, stream: SendStream) {
        let mut delivery = delivery(&stream);
        let at_once = delivery.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if at_once.is_pending() {
            let after: Duration = self.options.timeouts.close;
            self.runtime.spawn(async move {
                // The stream holds the connection.
                let _stream = stream;
                let _ = timeout(after, delivery).await;
            });
        }
    }

    /// Takes what `take` finds among the streams that arrived, or waits for more.
    async fn take<T>(&self, take: impl Fn(&mut Arrived) -> Option<T>) -> Result<T, ConnectionError> {
        loop {
            let mut news = pin!(self.news.notified());
            news.as_mut().enable();
            if let Some(found) = take(&mut self.arrived()) {
                return Ok(found);
            }
            tokio::select! {
                () = news => {}
                stream = self.connection.accept_bi() => self.sort(stream?),
            }
        }
    }

    /// Keeps a stream for whom it belongs to. The client's first one is the connection's.
    fn sort(&self, (send, recv): Stream) {
        let mut arrived = self.arrived();
        if send.id().initiator() == Side::Client && send.id().index() == 0 {
            arrived.first_recv = Some(recv);
            if arrived.forgone {
                self.finish(send);
            } else {
                arrived.first_send = Some(send);
            }
        } else {
            arrived.further.push_back((send, recv));
        }
        drop(arrived);
        self.news.notify_waiters();
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Link {
    /// Closes the connection once what is in flight has been acknowledged. Quinn holds the closing packet back while its
    /// congestion window is full, and counts no acknowledgement once it has closed, so the peer might never be told.
    fn drop(&mut self) {
        if self.connection.close_reason().is_none() {
            let connection = self.connection.clone();
            let settling = (3 * connection.rtt() + ACK_DELAY).min(self.options.timeouts.close);
            self.runtime.spawn(async move {
                sleep(settling).await;
                drop(connection);
            });
        }
    }
}

fn delivery(stream: &SendStream) -> Delivery {
    let stopped = stream.stopped();
    Box::pin(async move {
        match stopped.await {
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(error),
            _ => Ok(()),
        }
    })
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// The streams beside the first.
#[derive(Debug)]
struct Further(Arc<Link>);

impl Further {
    fn halves(&self, (send, recv): Stream) -> Halves {
        self.0.widen();
        let sender = QuicSender::further(Arc::clone(&self.0), send);
        let receiver = QuicReceiver::further(Arc::clone(&self.0), recv);
        (Box::new(sender), Box::new(receiver))
    }

    fn broken(&self, error: &ConnectionError) -> TransportError {
        TransportError::broken(self.0.peer.clone(), fault::lost(error))
    }
}

impl Streams for Further {
    fn open(&self) -> BoxFuture<'_, Result<Halves>> {
        Box::pin(async move {
            match self.0.connection.open_bi().await {
                Ok(stream) => Ok(self.halves(stream)),
                Err(error) => Err(self.broken(&error)),
            }
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<Halves>> {
        Box::pin(async move {
            self.0.widen();
            match self.0.take(|arrived| arrived.further.pop_front()).await {
                Ok(stream) => Ok(self.halves(stream)),
                Err(error) => Err(self.broken(&error)),
            }
        })
    }
}

/// Gives up a stream within a frame.
pub(super) fn abandon(mut stream: SendStream) {
    // Fails where the stream has ended, which is as well.
    let _ = stream.reset(CANCELLED);
}
