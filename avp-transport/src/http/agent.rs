//! A ready service: hellos are answered by the rules of `avp-handshake`, sessions are kept, frames and texts go to the
//! application.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use avp_handshake::{
    Event, Hello, Negotiator, NegotiatorConfig, PeerId, Session, SessionError, SessionId, SessionStore,
    StoreLimits, TextMessage,
};
use avp_wire::ext::{self, FrameKind};
use avp_wire::{ErrorCode, Frame, FrameHead, Metadata, Mode};
use serde_json::Value;
use tokio::time::Instant;

use super::HttpRefusal;
use super::service::{HttpCaller, HttpReply, HttpService};
use crate::error::UsageError;
use crate::link::{BoxFuture, Result};

/// What an application does with what comes over HTTP.
pub trait HttpHandler: Send + Sync + fmt::Debug {
    /// Takes a frame. `session` is that of the frame's `session_id` where the caller has one of that name.
    fn frame<'a>(
        &'a self,
        caller: &'a HttpCaller,
        session: Option<Session>,
        frame: Frame,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>>;

    /// Whether text messages are taken; no by default.
    fn takes_text(&self) -> bool {
        false
    }

    /// Takes a text message.
    fn text<'a>(
        &'a self,
        caller: &'a HttpCaller,
        session: Option<Session>,
        message: TextMessage,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        let _ = (caller, session, message);
        Box::pin(async { Err(HttpRefusal::new(ErrorCode::NoHandler, "Text handler not configured")) })
    }
}

/// Shakes hands, keeps the sessions, and gives frames and texts to `H`.
#[derive(Debug)]
pub struct HttpAgent<H> {
    config: NegotiatorConfig,
    handler: H,
    sessions: Mutex<SessionStore>,
    session_required: bool,
}

impl<H: HttpHandler> HttpAgent<H> {
    /// Answers hellos with `config.hello`; `config.peer` and `config.timeout` are of no account.
    ///
    /// # Errors
    /// [`UsageError::Configure`] where the hello has no identity, is too long or not sound.
    pub fn new(config: NegotiatorConfig, handler: H) -> Result<Self> {
        Negotiator::server(config.clone(), SessionId::from_random([0; 16]), now())
            .map_err(UsageError::Configure)?;
        let sessions = Mutex::new(SessionStore::new(StoreLimits::default()));
        Ok(Self { config, handler, sessions, session_required: false })
    }

    /// Refuses frames and texts that name no session of their caller. Otherwise they come without a session, as the
    /// Python SDK takes them.
    #[must_use]
    pub fn require_session(self) -> Self {
        Self { session_required: true, ..self }
    }

    /// The application's part.
    pub fn handler(&self) -> &H {
        &self.handler
    }

    fn answer(&self, caller: &HttpCaller, hello: &Hello) -> Result<HttpReply, HttpRefusal> {
        let id = SessionId::from_random(rand::random());
        let config = NegotiatorConfig { peer: caller.peer_id.clone(), ..self.config.clone() };
        let internal = |what: &dyn fmt::Display| HttpRefusal::new(ErrorCode::Internal, what.to_string());
        let mut negotiator =
            Negotiator::server(config, id.clone(), now()).map_err(|error| internal(&error))?;
        negotiator.handle_frame(hello_frame(hello.to_json(), String::new()), now());
        match negotiator.poll() {
            Some(Event::Established(established)) => {
                self.keep(established.session).map_err(|error| HttpRefusal::from(&error))?;
                let text = self.config.hello.to_json();
                let Ok(Value::Object(mut fields)) = serde_json::from_str(&text) else {
                    return Err(internal(&"the hello of this side is no object"));
                };
                fields.insert("session_id".to_owned(), id.to_string().into());
                Ok(HttpReply::Json(fields))
            }
            Some(Event::Failed(error)) => {
                Err(HttpRefusal::new(error.code(), format!("Invalid handshake: {error}")))
            }
            None => Err(internal(&"the handshake has no end")),
        }
    }

    /// Keeps a session. No request closes one, so the oldest of a peer that has many makes room for its next.
    fn keep(&self, session: Session) -> Result<(), SessionError> {
        let mut sessions = self.sessions();
        match sessions.insert(session.clone(), now()) {
            Err(SessionError::PeerFull { .. }) => {
                sessions.remove_oldest(&session.peer);
                sessions.insert(session, now())
            }
            other => other,
        }
    }

    fn sessions(&self) -> MutexGuard<'_, SessionStore> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session that `id` names, if it is the caller's.
    fn session(&self, peer: &PeerId, id: &str) -> Result<Option<Session>, HttpRefusal> {
        let found = match SessionId::parse(id) {
            Some(id) => self.sessions().get(&id, peer, now()).cloned(),
            None => Err(SessionError::Unknown),
        };
        match found {
            Ok(session) => Ok(Some(session)),
            Err(error) if self.session_required => Err(HttpRefusal::from(&error)),
            Err(_) => Ok(None),
        }
    }
}

impl<H: HttpHandler> HttpService for HttpAgent<H> {
    fn handshake<'a>(
        &'a self,
        caller: &'a HttpCaller,
        hello: Hello,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        Box::pin(async move { self.answer(caller, &hello) })
    }

    fn judge(&self, caller: &HttpCaller, head: &FrameHead) -> Result<(), HttpRefusal> {
        self.session(&caller.peer_id, &head.metadata.session_id).map(drop)
    }

    fn transmit<'a>(
        &'a self,
        caller: &'a HttpCaller,
        frame: Frame,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        Box::pin(async move {
            let session = self.session(&caller.peer_id, &frame.metadata.session_id)?;
            self.handler.frame(caller, session, frame).await
        })
    }

    fn left(&self, caller: &PeerId) {
        self.sessions().remove_all(caller);
    }

    fn takes_text(&self) -> bool {
        self.handler.takes_text()
    }

    fn text<'a>(
        &'a self,
        caller: &'a HttpCaller,
        message: TextMessage,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        Box::pin(async move {
            let session = self.session(&caller.peer_id, &message.session_id)?;
            self.handler.text(caller, session, message).await
        })
    }
}

/// A hello that came as JSON, as the negotiator takes it.
pub(super) fn hello_frame(text: String, session_id: String) -> Frame {
    let kind = (ext::KIND.to_owned(), FrameKind::Hello.as_str().to_owned());
    let metadata = Metadata { session_id, mode: Mode::Json, extra: [kind].into(), ..Metadata::default() };
    Frame::new(metadata, text.into_bytes())
}

/// The clock of tokio, which tests can pause, as `avp-handshake` takes it.
pub(super) fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use avp_handshake::ModelIdentity;

    use super::*;
    use crate::connection::{Peer, PeerAddress};
    use crate::testing::Discard;

    fn caller(name: &str) -> HttpCaller {
        let peer = Peer::at(PeerAddress::Memory(name.to_owned()));
        HttpCaller { peer, peer_id: PeerId::new(name), agent_id: None }
    }

    // spec: handshake 7.2, handshake 7.3
    #[tokio::test]
    async fn handshakes_never_use_up_what_is_there_for_sessions() {
        let identity = ModelIdentity { model_hash: "44136fa3".into(), ..Default::default() };
        let hello = Hello::new("agent", identity);
        let config = NegotiatorConfig::new(hello.clone(), PeerId::new("self"));
        let agent = HttpAgent::new(config, Discard::default()).unwrap();
        for number in 0..5000 {
            let caller = caller(&format!("connection {number}"));
            agent.answer(&caller, &hello).unwrap();
            agent.left(caller.peer_id());
        }
        for _ in 0..100 {
            agent.answer(&caller("one with a token"), &hello).unwrap();
        }
        assert_eq!(agent.sessions().len(), StoreLimits::default().per_peer);
    }
}
