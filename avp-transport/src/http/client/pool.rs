//! Connections that are kept: several of HTTP/1.1, of which each carries one request at a time, or one of HTTP/2.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::super::body::OutBody;
use super::super::dial::{Dialled, failure, reach};
use super::super::inline::Tasks;
use super::super::io::{Clues, Link, Socket};
use super::super::tuning::{BUFFER, http2_client};
use crate::connection::Peer;
use crate::link::Result;
use crate::options::Options;
use crate::socket;
use crate::url::TransportUrl;

/// Idle HTTP/1.1 connections that are kept.
const KEPT: usize = 16;
/// How long a kept connection may take to be ready before another is made.
const READY: Duration = Duration::from_millis(100);
/// Headers of an answer, in bytes.
const HEADER_BYTES: usize = 64 << 10;

type Sending<'a> =
    Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<OutBody>>>> + Send + 'a>>;

#[derive(Debug, Default)]
pub(super) struct Pool {
    prior_knowledge: bool,
    kept: Mutex<Vec<Lease>>,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<OutBody>),
    Two(http2::SendRequest<OutBody>),
}

/// A connection that carries one request.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) peer: Peer,
    pub(super) clues: Clues,
    sender: Sender,
    used: bool,
}

impl Pool {
    pub(super) fn with_http2() -> Self {
        Self { prior_knowledge: true, ..Self::default() }
    }

    /// A kept connection that still stands, or a new one.
    pub(super) async fn lease(&self, url: &TransportUrl, options: &Options) -> Result<Lease> {
        while let Some(mut lease) = self.take() {
            let ready = match &mut lease.sender {
                Sender::One(sender) => matches!(timeout(READY, sender.ready()).await, Ok(Ok(()))),
                Sender::Two(sender) => matches!(timeout(READY, sender.ready()).await, Ok(Ok(()))),
            };
            if ready {
                return Ok(lease);
            }
        }
        let lease = socket::in_time(url, options, self.dial(url, options)).await?;
        self.kept().extend(lease.shared());
        Ok(lease)
    }

    /// Keeps an HTTP/1.1 connection whose answer has been read. (HTTP/2 ones stay in the pool while they are used.)
    pub(super) fn give_back(&self, lease: Lease) {
        let mut kept = self.kept();
        if !lease.is_http2() && kept.len() < KEPT {
            kept.push(Lease { used: true, ..lease });
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Lease> {
        let mut kept = self.kept();
        kept.retain(|lease| match &lease.sender {
            Sender::One(sender) => !sender.is_closed(),
            Sender::Two(sender) => !sender.is_closed(),
        });
        kept.first().and_then(Lease::shared).or_else(|| kept.pop())
    }

    async fn dial(&self, url: &TransportUrl, options: &Options) -> Result<Lease> {
        let reached = reach(url, options, &[b"h2", b"http/1.1"]).await?;
        let h2 = reached.h2 || self.prior_knowledge && matches!(reached.socket, Dialled::Plain(_));
        match reached.socket {
            Dialled::Plain(stream) => speak(stream, h2, reached.peer, options).await,
            Dialled::Tls(stream) => speak(*stream, h2, reached.peer, options).await,
        }
    }
}

impl Lease {
    pub(super) fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Two(_))
    }

    /// Another request's share of an HTTP/2 connection.
    fn shared(&self) -> Option<Self> {
        let Sender::Two(sender) = &self.sender else { return None };
        let (peer, clues) = (self.peer.clone(), self.clues.clone());
        Some(Self { peer, clues, sender: Sender::Two(sender.clone()), used: true })
    }

    /// Whether the connection is not new.
    pub(super) fn is_used(&self) -> bool {
        self.used
    }

    pub(super) fn send(&mut self, request: Request<OutBody>) -> Sending<'_> {
        match &mut self.sender {
            Sender::One(sender) => Box::pin(sender.try_send_request(request)),
            Sender::Two(sender) => Box::pin(sender.try_send_request(request)),
        }
    }
}

/// Starts HTTP on a socket. Its task ends when the last sender is dropped.
async fn speak<S: Socket>(stream: S, h2: bool, peer: Peer, options: &Options) -> Result<Lease> {
    let link = Link::new(Bytes::new(), stream, options.limits.frame_timeout);
    let clues = link.clues();
    let io = TokioIo::new(link);
    let failed = |error| failure(&peer, &clues, error);
    let name = peer.to_string();
    let log = move |outcome: hyper::Result<()>| {
        if let Err(error) = outcome {
            tracing::debug!(peer = %name, %error, "an HTTP connection failed");
        }
    };
    if h2 {
        let mut tasks = Tasks::default();
        let mut builder = http2::Builder::new(tasks.executor());
        http2_client(&mut builder);
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        tokio::spawn(async move {
            log(tasks.beside(connection).await);
            // Answers that are still being read.
            tasks.finish().await;
        });
        return Ok(Lease { peer, clues, sender: Sender::Two(sender), used: false });
    }
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER).max_header_size(HEADER_BYTES);
    let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
    tokio::spawn(async move { log(connection.await) });
    Ok(Lease { peer, clues, sender: Sender::One(sender), used: false })
}
