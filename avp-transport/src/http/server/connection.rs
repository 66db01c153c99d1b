//! One client's TCP connection: TLS, which HTTP it speaks, and how long it may be there.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use avp_handshake::PeerId;
use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_rustls::TlsStream;

use super::super::inline::{Inline, Tasks};
use super::super::io::{Link, Socket};
use super::super::tuning::{BUFFER, http2_server};
use super::peers::Presence;
use super::routes;
use super::{Closing, Shared};
use crate::budget::MemoryBudget;
use crate::connection::{Peer, PeerAddress};
use crate::error::TransportError;
use crate::half_open::{HalfOpen, Progress, Step};
use crate::link::Result;
use crate::socket;
use crate::tls::{accept, fault, identity};

/// What every HTTP/2 connection starts with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One client's connection, as its requests see it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
    /// Who its sessions belong to where it shows no credentials.
    pub(super) owner: PeerId,
    pub(super) memory: MemoryBudget,
    pub(super) presence: Presence,
    place: Mutex<Option<HalfOpen>>,
    busy: AtomicUsize,
    served: AtomicUsize,
    refused: AtomicU32,
    dismissed: AtomicBool,
    leave: Notify,
}

impl Client {
    /// The place among half-open connections, once: taken by the first request that is let in.
    pub(super) fn establish(&self) -> Option<HalfOpen> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
        place.inspect(|place| place.progress().mark(Step::Secured))
    }

    fn is_half_open(&self) -> bool {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether the request that is being judged is the first of the connection.
    pub(super) fn is_first_request(&self) -> bool {
        self.served.load(Ordering::Relaxed) == 1
    }

    /// Counts a refused request; `false` where there were too many.
    pub(super) fn forgive(&self) -> bool {
        self.refused.fetch_add(1, Ordering::Relaxed) < self.shared.options.budgets.rejects
    }

    pub(super) fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Relaxed)
    }

    /// Ends the connection after the requests that are being served.
    pub(super) fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Relaxed);
        self.leave.notify_one();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let (None, Some(service)) = (self.peer.identity(), &self.shared.http.service) {
            service.left(&self.owner);
        }
    }
}

/// A request that is being served; idle time begins when there is none.
pub(super) struct Busy(Arc<Client>);

impl Busy {
    pub(super) fn new(client: &Arc<Client>) -> Self {
        client.busy.fetch_add(1, Ordering::Relaxed);
        client.served.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(client))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection on which requests can come.
pub(super) struct Opened {
    stream: Stream,
    peer: Peer,
    presence: Presence,
    h2: bool,
}

enum Stream {
    /// And what was read ahead.
    Plain(TcpStream, Bytes),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Shakes hands under TLS, and finds out which HTTP an accepted socket speaks.
pub(super) async fn open(
    (stream, address): (TcpStream, SocketAddr),
    presence: Presence,
    progress: Progress,
    shared: Arc<Shared>,
) -> Result<Opened> {
    socket::tune(&stream, address)?;
    let peer = Peer::at(PeerAddress::Socket(address));
    let Some(config) = &shared.tls else {
        let detected = detect(stream).await;
        let (stream, ahead, h2) =
            detected.map_err(|source| TransportError::broken(address.to_string(), source))?;
        return Ok(Opened { stream: Stream::Plain(stream, ahead), peer, presence, h2 });
    };
    let accepting = accept(stream, Arc::clone(config), &shared.turns, progress);
    let stream = accepting.await.map_err(|error| fault(address.to_string(), error))?;
    let (_, session) = stream.get_ref();
    let h2 = session.alpn_protocol() == Some(b"h2");
    let name = session.peer_certificates().and_then(identity);
    let peer = name.into_iter().fold(peer, Peer::with_identity);
    Ok(Opened { stream: Stream::Tls(Box::new(stream.into())), peer, presence, h2 })
}

/// Serves a connection to its end.
pub(super) async fn serve(opened: Opened, place: HalfOpen, shared: Arc<Shared>, closing: Closing) {
    let Opened { stream, peer, presence, h2 } = opened;
    let pushed_out = place.pushed_out();
    let client = client(&shared, peer, presence, place);
    let serving = async {
        match stream {
            Stream::Plain(stream, ahead) => talk(stream, ahead, h2, Arc::clone(&client), closing).await,
            Stream::Tls(stream) => talk(*stream, Bytes::new(), h2, Arc::clone(&client), closing).await,
        }
    };
    tokio::select! {
        // A peer whose request is here is not dropped for one that has not spoken.
        biased;
        () = serving => {}
        () = made_room(&pushed_out, &client) => {
            tracing::debug!(peer = %client.peer, "a half-open connection made room");
        }
    }
}

/// Resolves when the connection has to make room and has not been let in meanwhile.
async fn made_room(pushed_out: &Notify, client: &Client) {
    pushed_out.notified().await;
    if !client.is_half_open() {
        // For whoever has the place now.
        pushed_out.notify_one();
        pending::<()>().await;
    }
}

fn client(shared: &Arc<Shared>, peer: Peer, presence: Presence, place: HalfOpen) -> Arc<Client> {
    Arc::new(Client {
        shared: Arc::clone(shared),
        owner: peer.owner(),
        peer,
        memory: MemoryBudget::new(shared.options.limits.memory_budget),
        presence,
        place: Mutex::new(Some(place)),
        busy: AtomicUsize::new(0),
        served: AtomicUsize::new(0),
        refused: AtomicU32::new(0),
        dismissed: AtomicBool::new(false),
        leave: Notify::new(),
    })
}

/// Whether the first bytes are those of HTTP/2.
async fn detect(mut stream: TcpStream) -> std::io::Result<(TcpStream, Bytes, bool)> {
    let mut ahead = BytesMut::with_capacity(4096);
    while ahead.len() < PREFACE.len() && PREFACE.starts_with(&ahead) {
        if stream.read_buf(&mut ahead).await? == 0 {
            break;
        }
    }
    let h2 = ahead.starts_with(PREFACE);
    Ok((stream, ahead.freeze(), h2))
}

async fn talk<S: Socket>(stream: S, ahead: Bytes, h2: bool, client: Arc<Client>, closing: Closing) {
    let limits = &client.shared.options.limits;
    let io = TokioIo::new(Link::new(ahead, stream, limits.frame_timeout));
    let serving = Arc::clone(&client);
    let service = service_fn(move |request| {
        let client = Arc::clone(&serving);
        async move { Ok::<_, Infallible>(routes::answer::<S>(client, request).await) }
    });
    let tasks = Tasks::default();
    if h2 {
        let builder = http2_builder(&client.shared, tasks.executor());
        let connection = pin!(builder.serve_connection(io, service));
        drive(connection, tasks, http2::Connection::graceful_shutdown, &client, closing).await;
    } else {
        let connection = http1_builder(&client.shared).serve_connection(io, service).with_upgrades();
        drive(pin!(connection), tasks, http1::UpgradeableConnection::graceful_shutdown, &client, closing)
            .await;
    }
}

fn http1_builder(shared: &Shared) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(shared.options.limits.handshake_timeout)
        .max_headers(shared.http.limits.headers)
        .max_header_size(shared.http.limits.header_bytes)
        .max_buf_size(BUFFER.max(2 * shared.http.limits.header_bytes));
    builder
}

fn http2_builder(shared: &Shared, executor: Inline) -> http2::Builder<Inline> {
    let mut builder = http2::Builder::new(executor);
    let streams = u32::try_from(shared.options.limits.max_concurrent_transfers).unwrap_or(u32::MAX);
    let header_bytes = u32::try_from(shared.http.limits.header_bytes).unwrap_or(u32::MAX);
    http2_server(&mut builder);
    builder
        .max_concurrent_streams(streams)
        .max_header_list_size(header_bytes)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(100);
    builder
}

/// Runs a connection until it ends, has been idle too long, or is dismissed, alone or with all others.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    mut tasks: Tasks,
    shutdown: impl Fn(Pin<&mut C>),
    client: &Client,
    mut closing: Closing,
) where
    C: Future<Output = hyper::Result<()>>,
{
    let options = &client.shared.options;
    let first = options.limits.handshake_timeout;
    let mut due = pin!(sleep(first));
    let mut served = None;
    let mut leaving = false;
    loop {
        tokio::select! {
            outcome = tasks.beside(connection.as_mut()) => {
                if let Err(error) = outcome {
                    tracing::debug!(peer = %client.peer, %error, "an HTTP connection failed");
                }
                return;
            }
            () = closing.begun(), if !client.is_dismissed() => client.dismiss(),
            () = client.leave.notified(), if !leaving => {
                leaving = true;
                shutdown(connection.as_mut());
                due.set(sleep(options.timeouts.close));
            }
            () = due.as_mut() => {
                let busy = client.busy.load(Ordering::Relaxed) > 0;
                if client.is_half_open() || leaving && !busy {
                    return;
                }
                let now = (!busy).then(|| client.served.load(Ordering::Relaxed));
                // Nothing since the last look, which was one whole term ago.
                if now.is_some() && now == served {
                    client.dismiss();
                }
                served = now;
                due.set(sleep(if leaving { options.timeouts.close } else { options.timeouts.idle }));
            }
        }
    }
}
