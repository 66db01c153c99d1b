//! Requests to an agent that serves HTTP: this implementation's or the Python SDK's.

mod answer;
mod pool;

pub use answer::HttpAnswer;

use std::sync::Arc;

use ::http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use avp_handshake::{
    Established, Event, HandshakeError, Negotiator, NegotiatorConfig, SessionId, TextMessage,
};
use avp_wire::{EncodedFrame, Fault};
use hyper::Method;
use serde_json::Value;
use tokio::time::timeout;

use super::agent::{hello_frame, now};
use super::body::{OutBody, Progress};
use super::{FRAME_TYPE, HANDSHAKE, HEALTH, HttpRefusal, JSON_TYPE, TEXT, TRANSMIT};
use crate::budget::MemoryBudget;
use crate::connection::Peer;
use crate::error::{Deadline, Incompatible, IoFault, LimitExceeded, PeerFault, TransportError, UsageError};
use crate::link::Result;
use crate::options::Options;
use crate::patience::Patience;
use crate::telemetry::{Direction, Meter, Side, outcome_of};
use crate::url::TransportUrl;
use answer::Arriving;
use pool::{Lease, Pool};

/// Connections that are tried where kept ones turn out to be gone.
const ATTEMPTS: u32 = 20;

/// Makes requests. Cheap to clone; connections are kept and used again, by clones too.
///
/// Over `http` it speaks HTTP/1.1, or HTTP/2 after [`with_http2`](Self::with_http2); over `https` what the server
/// chooses. [`Options::token`] goes with every request.
///
/// Dropping a future gives its request up.
#[derive(Clone, Debug)]
pub struct HttpClient {
    url: TransportUrl,
    options: Options,
    agent_id: HeaderValue,
    pool: Arc<Pool>,
    memory: MemoryBudget,
    meter: Meter,
}

/// What a handshake over HTTP agreed on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HttpSession {
    /// The session, under an id of this side where the server named none.
    pub established: Box<Established>,
    /// Whether the server has only sent back what it was told, as the Python SDK's server does where no handshake handler is
    /// set: then nothing is known about its model.
    pub echoed: bool,
}

impl HttpClient {
    /// A client of the agent at an `http` or `https` URL. `agent_id` is what it calls itself.
    ///
    /// # Errors
    /// The URL is of another scheme, or the id cannot be in a header.
    pub fn new(url: &TransportUrl, agent_id: &str, options: Options) -> Result<Self> {
        super::parts(url)?;
        let agent_id = HeaderValue::from_str(agent_id).map_err(|_| UsageError::AgentId)?;
        let memory = MemoryBudget::new(options.limits.memory_budget);
        let meter = Meter::requests(url.scheme());
        Ok(Self { url: url.clone(), options, agent_id, pool: Arc::default(), memory, meter })
    }

    /// Speaks HTTP/2 over plain `http` without asking first.
    #[must_use]
    pub fn with_http2(self) -> Self {
        Self { pool: Arc::new(Pool::with_http2()), ..self }
    }

    /// Says hello and resolves what can be shared. `config.peer` and `config.timeout` are set here.
    ///
    /// # Errors
    /// The server refused, or answered with what is no hello.
    pub async fn handshake(&self, config: NegotiatorConfig) -> Result<HttpSession> {
        let outcome = self.counted(self.negotiate(config).await);
        self.meter.negotiated(Side::Client, outcome_of(&outcome));
        outcome
    }

    async fn negotiate(&self, config: NegotiatorConfig) -> Result<HttpSession> {
        let text = config.hello.to_json();
        let (fields, raw, peer) = self.ask(HANDSHAKE, text.into()).await?;
        let peer_name = peer.to_string();
        if fields.get("success") == Some(&Value::Bool(false)) {
            let refusal = HttpRefusal::read(200, None, &raw);
            return Err(Incompatible::Refused { peer: peer_name, refusal }.into());
        }
        let named = fields.get("session_id").map(|id| id.as_str().unwrap_or_default().to_owned());
        let id = match &named {
            Some(id) => id.clone(),
            None => SessionId::from_random(rand::random()).to_string(),
        };
        let ours = config.hello.clone();
        let config = NegotiatorConfig { peer: peer.owner(), ..config };
        let mut negotiator = Negotiator::client(config, now()).map_err(UsageError::Configure)?;
        let answer = String::from_utf8(raw).unwrap_or_default();
        negotiator.handle_frame(hello_frame(answer, id), now());
        match negotiator.poll() {
            Some(Event::Established(established)) => {
                let theirs = &established.remote;
                let same = theirs.identity == ours.identity && theirs.agent_id == ours.agent_id;
                Ok(HttpSession { echoed: named.is_none() && same, established })
            }
            Some(Event::Failed(source)) => Err(failed(peer_name, source)),
            None => Err(PeerFault::ClosedInHandshake { peer: peer_name }.into()),
        }
    }

    /// Sends a frame, whose payload is not copied; gives the answer. The answer of this implementation may be a frame.
    ///
    /// # Errors
    /// [`Incompatible::Refused`] with the status and why, [`PeerFault::Answer`] where no AVP server is there, a deadline,
    /// or the network's.
    pub async fn transmit(&self, frame: EncodedFrame) -> Result<HttpAnswer> {
        let (bytes, body) = (frame.len(), OutBody::of_frame(frame));
        let sent = self.send(Method::POST, TRANSMIT, Some(FRAME_TYPE), body).await;
        let arriving = self.meter.sent(bytes, sent)?;
        self.counted(arriving.whole(&self.options, &self.memory, &self.pool).await)
    }

    /// Sends a text message; gives the answer.
    ///
    /// # Errors
    /// As [`transmit`](Self::transmit).
    pub async fn text(&self, message: &TextMessage) -> Result<HttpAnswer> {
        let body = OutBody::from(message.to_json());
        let arriving = self.send(Method::POST, TEXT, Some(JSON_TYPE), body).await?;
        self.counted(arriving.whole(&self.options, &self.memory, &self.pool).await)
    }

    /// Counts refusals.
    fn counted<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.inspect_err(|error| {
            if let TransportError::Incompatible(Incompatible::Refused { refusal, .. }) = error {
                self.meter.refused(refusal);
            }
        })
    }

    /// Whether the agent is there and well.
    ///
    /// # Errors
    /// As [`transmit`](Self::transmit).
    pub async fn health(&self) -> Result<()> {
        let arriving = self.send(Method::GET, HEALTH, None, OutBody::default()).await?;
        let peer = arriving.peer.to_string();
        let (fields, _) = arriving.json(&self.options, &self.pool).await?;
        match fields.get("status").and_then(Value::as_str) {
            Some("ok") => Ok(()),
            other => Err(PeerFault::Answer { peer, what: format!("its health is {other:?}") }.into()),
        }
    }

    async fn ask(
        &self,
        path: &str,
        body: OutBody,
    ) -> Result<(serde_json::Map<String, Value>, Vec<u8>, Peer)> {
        let arriving = self.send(Method::POST, path, Some(JSON_TYPE), body).await?;
        let peer = arriving.peer.clone();
        let (fields, raw) = arriving.json(&self.options, &self.pool).await?;
        Ok((fields, raw, peer))
    }

    /// Sends a request, once more where a kept connection turned out to be gone before a byte went.
    async fn send(
        &self,
        method: Method,
        path: &str,
        kind: Option<&'static str>,
        body: OutBody,
    ) -> Result<Arriving> {
        let mut body = body;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut lease = self.pool.lease(&self.url, &self.options).await?;
            let progress = Arc::new(Progress::default());
            let total = body.len();
            let body_out = std::mem::take(&mut body).watched(Arc::clone(&progress));
            let target = (method.clone(), path);
            let mut request =
                super::dial::request(&self.url, &self.options, target, lease.is_http2(), body_out)?;
            let headers = request.headers_mut();
            headers.insert(HeaderName::from_static("avp-agent-id"), self.agent_id.clone());
            if let Some(kind) = kind {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                headers.append(ACCEPT, HeaderValue::from_static(JSON_TYPE));
            }
            if kind == Some(FRAME_TYPE) {
                headers.append(ACCEPT, HeaderValue::from_static(FRAME_TYPE));
            }
            match self.wait(&mut lease, request, &progress, total).await? {
                Ok(response) => return Ok(Arriving::new(response, lease, self.meter.clone())),
                Err(unsent) if lease.is_used() && attempts < ATTEMPTS => body = unsent.into_body(),
                Err(_) => {
                    let peer = lease.peer.to_string();
                    let source = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    return Err(IoFault::Broken { peer, source }.into());
                }
            }
        }
    }

    /// Waits while the body goes out at the minimum rate, then for the answer to begin. The inner error is a request of
    /// which nothing went.
    async fn wait(
        &self,
        lease: &mut Lease,
        request: hyper::Request<OutBody>,
        progress: &Progress,
        total: u64,
    ) -> Result<Result<hyper::Response<hyper::body::Incoming>, hyper::Request<OutBody>>> {
        let (peer, clues) = (lease.peer.clone(), lease.clues.clone());
        let mut sending = lease.send(request);
        let mut patience = Patience::new(&self.options.limits, self.meter.clone(), Direction::Sent);
        let mut gone = 0;
        let outcome = loop {
            if gone >= total {
                let after = self.options.timeouts.idle;
                match timeout(after, sending.as_mut()).await {
                    Ok(outcome) => break outcome,
                    Err(_) => {
                        let (peer, which) = (peer.to_string(), Deadline::Idle);
                        return Err(
                            LimitExceeded::Deadline { peer, which, after, got: 0, expected: 0 }.into()
                        );
                    }
                }
            }
            let step = async {
                tokio::select! {
                    outcome = sending.as_mut() => Err(outcome),
                    moved = progress.moved() => Ok(moved),
                }
            };
            match patience.wait(step).await {
                Some(Err(outcome)) => break outcome,
                Some(Ok(moved)) => {
                    patience.moved(usize::try_from(moved.saturating_sub(gone)).unwrap_or(usize::MAX));
                    gone = moved;
                }
                None => {
                    return Err(patience.exhausted(&peer.to_string(), Deadline::Send, gone, total).into());
                }
            }
        };
        match outcome {
            Ok(response) => Ok(Ok(response)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => Ok(Err(unsent)),
                None => Err(super::dial::failure(&peer, &clues, error.into_error())),
            },
        }
    }
}

fn failed(peer: String, source: HandshakeError) -> TransportError {
    if source.fault() == Fault::Peer {
        return PeerFault::Handshake { peer, source }.into();
    }
    Incompatible::Handshake { peer, source }.into()
}
