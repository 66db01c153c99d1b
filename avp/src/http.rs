//! Requests over HTTP to an agent that serves, as the Python SDK makes them (docs/spec/http.md, 6): texts are questions to
//! the model, and a context can be asked about in the request that brings it or in later ones of its session.

use std::fmt;
use std::sync::Arc;

use avp_backend::{Context, Verification};
use avp_handshake::{MessageError, NegotiatorConfig, PeerId, Reject, Session, TextMessage, without_device};
use avp_transport::{
    BoxFuture, HttpAgent, HttpCaller, HttpHandler, HttpListener, HttpRefusal, HttpReply, HttpServerOptions,
    Listener, Party, TransportError, TransportUrl,
};
use avp_wire::ext::{self, FrameKind};
use avp_wire::slab::TransferId;
use avp_wire::{ErrorCode, Frame, Mode, PayloadType, TransmitResponse};

use crate::answering::{Behind, Question, answer, import, turn};
use crate::exchange::{self, answer_message, question_of};
use crate::places::Working;
use crate::server::Shared;

/// Listens at an HTTP address for requests and for connections.
pub(crate) async fn listen(
    url: &TransportUrl,
    shared: &Arc<Shared>,
) -> Result<Box<dyn Listener>, TransportError> {
    let mut hello = shared.agent.hello();
    // Whoever calls may be on another machine.
    without_device(&mut hello);
    let mut config = NegotiatorConfig::new(hello, PeerId::new("set for each caller"));
    config.policy = shared.options.policy;
    let agent = HttpAgent::new(config, Requests { shared: Arc::clone(shared) })?;
    let mut http = HttpServerOptions::default();
    http.service = Some(Arc::new(agent));
    http.metrics = shared.options.metrics.clone();
    let transport = shared.options.transport.clone();
    Ok(Box::new(HttpListener::serve(url, transport, http).await?))
}

struct Requests {
    shared: Arc<Shared>,
}

impl Requests {
    /// A place for a request among those of the sessions.
    fn begin_work(&self, caller: &HttpCaller) -> Result<Working, HttpRefusal> {
        let most = self.shared.options.max_sessions;
        let busy = || {
            let message =
                format!("this agent serves {most} sessions and requests, its most; try again later");
            HttpRefusal::new(ErrorCode::Busy, message)
        };
        self.shared.places.work(Party::from(caller.peer())).ok_or_else(busy)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("agent", &self.shared.agent.name()).finish_non_exhaustive()
    }
}

impl HttpHandler for Requests {
    fn frame<'a>(
        &'a self,
        caller: &'a HttpCaller,
        session: Option<Session>,
        frame: Frame,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        let request = Request { shared: &self.shared, caller, session };
        Box::pin(async move {
            let _working = self.begin_work(caller)?;
            request.frame(frame).await.map_err(refusal)
        })
    }

    fn takes_text(&self) -> bool {
        true
    }

    fn text<'a>(
        &'a self,
        caller: &'a HttpCaller,
        session: Option<Session>,
        message: TextMessage,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>> {
        let request = Request { shared: &self.shared, caller, session };
        Box::pin(async move {
            let _working = self.begin_work(caller)?;
            let asked = Asked::of(Ok(message), None).map_err(refusal)?;
            request.text(asked).await.map_err(refusal)
        })
    }
}

/// What a text message asks.
struct Asked {
    /// What its sender calls itself.
    asker: String,
    /// The context that it builds on.
    transfer: Option<TransferId>,
    question: exchange::Asked,
}

impl Asked {
    /// Reads a message. The context may be named beside it, in the metadata of its frame.
    fn of(message: Result<TextMessage, MessageError>, transfer: Option<TransferId>) -> Result<Self, Reject> {
        let (asker, named) = match &message {
            Ok(message) => (message.source_agent_id.clone(), message.extra.get(ext::TRANSFER).cloned()),
            Err(_) => Default::default(),
        };
        let question = question_of(message)?;
        if question.validate.is_some() {
            let message = "distributions, and what they are worth, go over a connection (/avp/v2/connect)";
            return Err(Reject::new(ErrorCode::UnexpectedFrame, message));
        }
        let named = named.map(|name| transfer_id(name.as_str().unwrap_or_default())).transpose()?;
        Ok(Self { asker, transfer: named.or(transfer), question })
    }
}

/// One request, and who makes it.
struct Request<'a> {
    shared: &'a Arc<Shared>,
    caller: &'a HttpCaller,
    session: Option<Session>,
}

impl Request<'_> {
    async fn frame(&self, frame: Frame) -> Result<HttpReply, Reject> {
        let kind = frame.kind().map_err(|error| Reject::new(error.code(), error.to_string()))?;
        match (kind, frame.metadata.mode, frame.metadata.payload_type) {
            (None | Some(FrameKind::Text), Mode::Json, _) => {
                self.text(Asked::of(TextMessage::from_json(&frame.payload), named(&frame)?)?).await
            }
            (None | Some(FrameKind::Slab), Mode::Latent, PayloadType::KvCache) => self.context(frame).await,
            (Some(FrameKind::Manifest), ..) => Err(Reject::new(
                ErrorCode::UnexpectedFrame,
                "a context comes in one frame here; slabs go over a connection (/avp/v2/connect)",
            )),
            _ => Err(Reject::new(
                ErrorCode::UnexpectedFrame,
                "expected a context (a KV cache in LATENT mode) or a question (a text message in JSON_MODE)",
            )),
        }
    }

    /// Answers a question, behind the context of this session that it names.
    async fn text(&self, asked: Asked) -> Result<HttpReply, Reject> {
        let behind = match &asked.transfer {
            None => Behind::Nothing,
            Some(id) => {
                let session = self.session.as_ref().ok_or_else(no_session)?;
                Behind::Context(self.shared.kept.get(&session.id, id)?)
            }
        };
        self.answer(asked, behind).await
    }

    /// Takes a context: for the question that came along with it, for later ones, or for both.
    async fn context(&self, frame: Frame) -> Result<HttpReply, Reject> {
        let extra = &frame.metadata.extra;
        let named = named(&frame)?;
        let question = extra.get(ext::QUESTION).map(|text| TextMessage::from_json(text.as_bytes()));
        let asked = question.map(|message| Asked::of(message, None)).transpose()?;
        let keeping = match (&self.session, &named, &asked) {
            (_, None, Some(_)) => None,
            (Some(session), ..) => Some(&session.id),
            (None, ..) => return Err(no_session()),
        };
        let context = import(Arc::clone(self.shared), frame).await?;
        let id = named.unwrap_or_else(|| TransferId::from_random(rand::random()));
        if let Some(session) = keeping {
            let party = Party::from(self.caller.peer());
            self.shared.kept.put(party, session, id.clone(), context.clone())?;
        }
        match asked {
            Some(asked) => self.answer(asked, Behind::Context(context)).await,
            None => Ok(taken(&id, &context).into()),
        }
    }

    /// Answers by a text message. Dropped with its request.
    async fn answer(&self, asked: Asked, behind: Behind) -> Result<HttpReply, Reject> {
        let Asked { asker, question: exchange::Asked { prompt, request, said, .. }, .. } = asked;
        let (turn, ()) = turn(self.shared, &behind, || ()).await?;
        let question = Question { prompt, behind, request, said };
        let written = answer(self.shared, self.peer(), question, turn).await?;
        let session = self.session.as_ref().map_or("", |session| session.id.as_str());
        let reply = answer_message(session, self.shared.agent.name(), written);
        Ok(TextMessage { target_agent_id: asker, ..reply }.into())
    }

    /// The caller's own name for itself.
    fn peer(&self) -> &str {
        let session = self.session.as_ref().map(|session| session.remote_agent.as_str());
        session.or(self.caller.agent_id()).unwrap_or_default()
    }
}

/// The answer to a context that was kept.
fn taken(id: &TransferId, context: &Context) -> TransmitResponse {
    let verified = context.verification() == Verification::Verified;
    let extra = [
        (ext::TRANSFER, id.to_string()),
        ("context_tokens", context.len().to_string()),
        ("verified", verified.to_string()),
    ];
    let extra = extra.map(|(key, value)| (key.to_owned(), value)).into();
    TransmitResponse { success: true, extra, ..TransmitResponse::default() }
}

/// The transfer that the metadata of a frame name.
fn named(frame: &Frame) -> Result<Option<TransferId>, Reject> {
    frame.metadata.extra.get(ext::TRANSFER).map(|name| transfer_id(name)).transpose()
}

fn transfer_id(name: &str) -> Result<TransferId, Reject> {
    name.parse::<TransferId>().map_err(|error| Reject::new(error.code(), error.to_string()))
}

fn no_session() -> Reject {
    Reject::new(
        ErrorCode::UnknownSession,
        "contexts are kept for sessions, and `session_id` names none of this caller; shake hands first \
         (/avp/v2/handshake) and name the session that the answer names",
    )
}

fn refusal(reject: Reject) -> HttpRefusal {
    HttpRefusal::new(reject.code.unwrap_or(ErrorCode::Internal), reject.message)
}
