//! The listener: one port for requests and for connections.

mod connection;
mod peers;
mod request;
mod respond;
mod routes;
mod upgrade;

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::{HttpServerOptions, parts};
use crate::bodies::Bodies;
use crate::connection::Connection;
use crate::error::UsageError;
use crate::half_open::{HalfOpenGate, PeerKey};
use crate::handshaking::Handshaking;
use crate::link::{BoxFuture, Listener, Result};
use crate::options::Options;
use crate::socket;
use crate::telemetry::Meter;
use crate::turns::Turns;
use crate::url::{Scheme, TransportUrl};
use peers::Peers;

/// Serves HTTP at one port: requests go to the [`HttpService`](super::HttpService), connections that clients open by
/// an upgrade come out of [`accept`](Listener::accept). HTTP/1.1 and HTTP/2, the latter with prior knowledge or by ALPN.
///
/// It works in the background, so requests are served also while nobody calls `accept`. Dropping it does what
/// [`close`](Self::close) does, in the background; connections that were not accepted end, accepted ones go on.
#[derive(Debug)]
pub struct HttpListener {
    url: TransportUrl,
    upgraded: Mutex<mpsc::Receiver<Connection>>,
    serving: JoinHandle<()>,
    /// Dropped to say that it closes.
    open: watch::Sender<()>,
}

/// Tells when the listener closes.
#[derive(Clone, Debug)]
struct Closing(watch::Receiver<()>);

impl Closing {
    async fn begun(&mut self) {
        // Nothing is ever sent, so this ends when the sender is gone.
        while self.0.changed().await.is_ok() {}
    }
}

/// What the connections of a listener share.
#[derive(Debug)]
struct Shared {
    options: Options,
    http: HttpServerOptions,
    meter: Meter,
    tls: Option<Arc<rustls::ServerConfig>>,
    gate: HalfOpenGate,
    turns: Turns,
    peers: Peers,
    bodies: Bodies,
    upgraded: mpsc::Sender<Connection>,
}

impl HttpListener {
    /// Binds to an `http` or `https` URL, for connections alone; port 0 takes a free one.
    ///
    /// # Errors
    /// The name does not resolve, the port is taken, `http` beyond loopback without
    /// [`Options::allow_remote`], or `https` without a certificate in [`Options::tls`].
    pub async fn bind(url: &TransportUrl, options: Options) -> Result<Self> {
        Self::serve(url, options, HttpServerOptions::default()).await
    }

    /// Binds, and serves requests too.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn serve(url: &TransportUrl, options: Options, http: HttpServerOptions) -> Result<Self> {
        let (tls, host, port) = parts(url)?;
        let config = match tls {
            true => Some(Arc::new(options.tls.server(&[b"h2", b"http/1.1"]).map_err(UsageError::Tls)?)),
            false => None,
        };
        let addresses = socket::resolve(host, port).await?;
        if !tls {
            socket::check_loopback(&addresses, &options)?;
        }
        let (listener, address) = socket::bind(host, &addresses).await?;
        let (sender, upgraded) = mpsc::channel(http.limits.backlog.max(1));
        let shared = Arc::new(Shared {
            gate: HalfOpenGate::new(options.limits.max_half_open_per_peer),
            turns: Turns::default(),
            peers: Peers::new(http.limits),
            bodies: Bodies::new(http.limits.body_memory),
            options,
            http,
            meter: Meter::requests(url.scheme()),
            tls: config,
            upgraded: sender,
        });
        let url = TransportUrl::Http { tls, host: address.ip().to_string(), port: address.port() };
        let (open, closing) = watch::channel(());
        let serving = tokio::spawn(run(listener, shared, Closing(closing)));
        Ok(Self { url, upgraded: Mutex::new(upgraded), serving, open })
    }

    /// Shuts down: the port is closed, idle HTTP connections too (HTTP/2 is told by GOAWAY). Requests that are being
    /// served are answered, as far as that takes no longer than [`Timeouts::close`](crate::Timeouts::close).
    /// Dropping the future leaves this to the background.
    pub async fn close(self) {
        let Self { serving, open, .. } = self;
        drop(open);
        // An error would be a panic there, which has been reported.
        let _ = serving.await;
    }
}

impl Listener for HttpListener {
    fn accept(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async move {
            let closed = || UsageError::Closed { peer: self.url.to_string() }.into();
            self.upgraded.lock().await.recv().await.ok_or_else(closed)
        })
    }

    fn local_url(&self) -> &TransportUrl {
        &self.url
    }
}

async fn run(listener: tokio::net::TcpListener, shared: Arc<Shared>, mut closing: Closing) {
    let mut connections = JoinSet::new();
    let until = closing.clone();
    let opening = Handshaking::new(if shared.tls.is_some() { Scheme::Https } else { Scheme::Http });
    let next = || async {
        shared.turns.ready().await;
        shared.gate.ready().await;
        let (stream, address) = socket::accept(&listener).await;
        let key = PeerKey::from(address.ip());
        let (place, presence) = (shared.gate.enter(key.clone()), shared.peers.enter(key));
        let opened = connection::open((stream, address), presence, place.progress(), Arc::clone(&shared));
        Some((place, opened))
    };
    loop {
        tokio::select! {
            (opened, place) = opening.accept(&next, shared.options.limits.handshake_timeout) => {
                connections.spawn(connection::serve(opened, place, Arc::clone(&shared), until.clone()));
            }
            Some(_) = connections.join_next() => {}
            () = closing.begun() => break,
        }
    }
    // What comes before the first request ends with the listener.
    drop((opening, listener));
    let drained =
        timeout(shared.options.timeouts.close, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::debug!(unfinished = connections.len(), "requests were cut off at the end of the listener");
    }
}
