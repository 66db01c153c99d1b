//! Connections over HTTP: one request that is upgraded, then frames both ways.

use ::http::header::{CONNECTION, HeaderValue, RETRY_AFTER, SERVER, UPGRADE};
use hyper::client::conn::http1;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;

use super::body::{BodyReader, OutBody};
use super::dial::{Dialled, failure, reach, request};
use super::io::{Link, Socket};
use super::{CONNECT, HttpRefusal, UPGRADE as AVP};
use crate::connection::{Connection, Peer};
use crate::error::{Incompatible, IoFault, PeerFault, TransportError};
use crate::link::{BoxFuture, Connector, Result};
use crate::options::Options;
use crate::socket;
use crate::telemetry::{Side, connecting};
use crate::url::TransportUrl;

/// Most of an answer that is read to find out why it is no.
const ANSWER: u64 = 4096;

/// Connects to an [`HttpListener`](super::HttpListener) at an `http` or `https` URL.
#[derive(Clone, Debug, Default)]
pub struct HttpConnector {
    options: Options,
}

impl HttpConnector {
    /// A connector with these options. [`Options::token`] goes with the request, and again in the hello.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    async fn open(&self, url: &TransportUrl) -> Result<Connection> {
        let reached = reach(url, &self.options, &[b"http/1.1"]).await?;
        match reached.socket {
            Dialled::Plain(stream) => self.upgrade(url, stream, reached.peer).await,
            Dialled::Tls(stream) => self.upgrade(url, *stream, reached.peer).await,
        }
    }

    async fn upgrade<S: Socket>(&self, url: &TransportUrl, stream: S, peer: Peer) -> Result<Connection> {
        let link = Link::new(bytes::Bytes::new(), stream, self.options.limits.frame_timeout);
        let clues = link.clues();
        let io = TokioIo::new(link);
        let failed = |error| failure(&peer, &clues, error);
        let (mut sender, connection) = http1::Builder::new().handshake(io).await.map_err(failed)?;
        // Ends with the upgrade, or when the sender and what it gave are dropped.
        let driving = tokio::spawn(connection.with_upgrades());
        let ending = AbortOnDrop(driving.abort_handle());
        let mut asking = request(url, &self.options, (Method::GET, CONNECT), false, OutBody::default())?;
        asking.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        asking.headers_mut().insert(UPGRADE, HeaderValue::from_static(AVP));
        let mut response = sender.send_request(asking).await.map_err(failed)?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(&peer, response, self.options.token.is_some()).await);
        }
        let chosen = response.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
        if !chosen.is_some_and(|name| name.eq_ignore_ascii_case(AVP)) {
            let what = format!("it changed to {} instead of {AVP}", chosen.unwrap_or("nothing"));
            return Err(PeerFault::Answer { peer: peer.to_string(), what }.into());
        }
        let upgraded = hyper::upgrade::on(&mut response).await.map_err(failed)?;
        drop(ending);
        let parts = upgraded.downcast::<TokioIo<Link<S>>>().map_err(|_| IoFault::Broken {
            peer: peer.to_string(),
            source: std::io::Error::other("the upgraded connection is of another type"),
        })?;
        let (stream, _) = parts.io.into_inner().into_parts();
        Ok(stream.into_connection(parts.read_buf, peer, &self.options, Side::Client))
    }
}

impl Connector for HttpConnector {
    fn connect<'a>(&'a self, url: &'a TransportUrl) -> BoxFuture<'a, Result<Connection>> {
        Box::pin(async move {
            connecting(url.scheme(), socket::in_time(url, &self.options, self.open(url)).await)
        })
    }
}

/// Ends hyper's task when the attempt is given up.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An AVP server says why in its own words; anything else is no AVP server, or one that takes requests only.
async fn refused(
    peer: &Peer,
    response: hyper::Response<hyper::body::Incoming>,
    showed_token: bool,
) -> TransportError {
    use tokio::io::AsyncReadExt;
    let (head, body) = response.into_parts();
    let text = |name| head.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let retry_after =
        text(RETRY_AFTER).and_then(|value| value.parse().ok()).map(std::time::Duration::from_secs);
    let server = text(SERVER).map(|name| name.chars().take(64).collect());
    let mut answer = Vec::new();
    let _ = BodyReader::new(body).take(ANSWER).read_to_end(&mut answer).await;
    let status = head.status.as_u16();
    let refusal = HttpRefusal::read(status, retry_after, &answer);
    let peer = peer.to_string();
    if head.status == StatusCode::UNAUTHORIZED {
        return Incompatible::TurnedAway { peer, showed_token }.into();
    }
    if refusal.code.is_some() {
        return Incompatible::Refused { peer, refusal }.into();
    }
    Incompatible::NoUpgrade { peer, status, server }.into()
}
