//! The asking side: one connection to another agent.

use std::collections::HashSet;
use std::time::Instant;

use avp_backend::{ContextError, GenerateOptions};
use avp_handshake::{
    Established, Hello, MessageError, ModelIdentity, NegotiatorConfig, Reject, Resolution, TextMessage,
};
use avp_transport::{
    Incompatible, LimitExceeded, Options as TransportOptions, PeerFault, TlsFault, Transfer, Transfers,
    TransportError, TransportUrl, UrlError, connect, negotiate_client,
};
use avp_wire::ext::FrameKind;
use avp_wire::slab::{SlabError, TransferId};
use avp_wire::{EncodeOptions, ErrorCode, Fault, Frame, KvError, Metadata, Mode, ext};
use tokio::time::timeout;

use crate::agent::announce;
use crate::choice::{choose, refused};
use crate::deliver::{Delivery, Handed};
use crate::exchange::{GenerateRequest, mark_slab, question_frame, record_of};
use crate::outgoing::{OutgoingContext, SourceError};
use crate::{Answer, Handover};

/// A question to another agent.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// What is asked.
    pub prompt: String,
    /// What was computed before, by an agent or from a file ([`open_context`](crate::open_context)).
    pub context: Option<OutgoingContext>,
    /// What the context was computed from, for a peer that cannot take it; put before the prompt then.
    pub text: Option<String>,
    /// How the answer is to be written.
    pub options: GenerateOptions,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The address is not one.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The connection or the handshake failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The context is not one.
    #[error("the context cannot be sent: {0}")]
    Context(#[from] ContextError),
    /// The peer said no.
    #[error("the peer refused{}: {message}", code.map(|c| format!(" ({})", c.as_str())).unwrap_or_default())]
    Refused {
        /// Why, where the code is known here.
        code: Option<ErrorCode>,
        /// In its words.
        message: String,
    },
    /// Nothing of the context can be handed over.
    #[error(
        "{why}, and the text behind the context is not at hand; give that text (--text), or ask a peer that runs the model that made the context"
    )]
    NothingToHandOver {
        /// Why the KV cache will not do.
        why: String,
    },
    /// The peer's answer is not a text message.
    #[error("the peer's answer is not a text message: {0}")]
    Answer(MessageError),
    /// The context cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What the peer says to the transfer of a context makes no sense.
    #[error("the peer's answer to the transfer of the context is none: {0}")]
    Protocol(SlabError),
    /// The peer takes no contexts in slabs.
    #[error("the peer does not take contexts in slabs; ask it with the context instead")]
    NoSlabs,
    /// The peer runs another model.
    #[error("the context cannot be handed over: {why}")]
    OtherModel {
        /// How the models differ.
        why: String,
    },
    /// Slabs arrived damaged again and again.
    #[error("the peer still lacked slabs after {rounds} rounds; something between damages them")]
    Damaged {
        /// How often they were sent.
        rounds: usize,
    },
    /// The thread that reads the context ended without a result.
    #[error("the thread that reads the context ended without a result")]
    Lost,
    /// The peer ended the connection instead of answering.
    #[error("the peer closed the connection without an answer; see its log")]
    Closed,
}

impl AskError {
    /// Whether the connection failed, so that the same on another one may succeed.
    #[must_use]
    pub fn is_worth_another_try(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Transport(TransportError::Io(_)) => true,
            Self::Transport(TransportError::Incompatible(Incompatible::Tls { fault, .. })) => {
                matches!(fault, TlsFault::Ended)
            }
            Self::Transport(TransportError::Limit(limit)) => matches!(limit, LimitExceeded::Deadline { .. }),
            Self::Transport(TransportError::Peer(fault)) => {
                matches!(fault, PeerFault::DamagedFrame { .. } | PeerFault::Truncated { .. })
            }
            _ => false,
        }
    }
}

impl From<KvError> for AskError {
    fn from(error: KvError) -> Self {
        Self::Context(error.into())
    }
}

/// A session with another agent.
#[derive(Debug)]
pub struct Peer {
    transfers: Transfers,
    /// For questions that no context belongs to.
    questions: Transfer,
    established: Box<Established>,
    hello: Hello,
    options: TransportOptions,
    /// Ids serve once in a session.
    used: HashSet<TransferId>,
}

impl Peer {
    /// Connects to `url` and negotiates as `hello`: [`Agent::hello`](crate::Agent::hello), or [`Peer::hello_for`]
    /// where no model is loaded here.
    ///
    /// # Errors
    /// [`AskError`] if nobody answers there, or the handshake fails.
    pub async fn connect(url: &str, hello: Hello, options: &TransportOptions) -> Result<Self, AskError> {
        let url: TransportUrl = url.parse()?;
        let mut connection = connect(&url, options).await?;
        let config = NegotiatorConfig::new(hello.clone(), connection.peer_id());
        let established = negotiate_client(&mut connection, config).await?;
        let transfers = Transfers::over(connection);
        let (questions, options) = (transfers.open("")?, options.clone());
        Ok(Self { transfers, questions, established, hello, options, used: HashSet::new() })
    }

    /// The hello of an agent that has a context but no model: the identity is that of the model that made it.
    #[must_use]
    pub fn hello_for(name: &str, context: Option<&OutgoingContext>) -> Hello {
        let mut hello = Hello { agent_id: name.to_owned(), ..Hello::default() };
        hello.identity = context.map(identity_of);
        announce(&mut hello, context.and_then(weights_of));
        hello
    }

    /// What the peer runs.
    #[must_use]
    pub fn identity(&self) -> ModelIdentity {
        self.established.remote.identity.clone().unwrap_or_default()
    }

    /// What was negotiated.
    #[must_use]
    pub fn resolution(&self) -> &Resolution {
        self.established.resolution()
    }

    /// Asks, and waits for the answer. The context goes as KV cache where the session allows it, else as text.
    ///
    /// # Errors
    /// [`AskError`]. After [`AskError::Refused`] the session can go on.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer, AskError> {
        self.ask_with(ask, &|_| ()).await
    }

    /// As [`ask`](Self::ask); `on` hears how far the context has come.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub async fn ask_with(&mut self, ask: &Ask, on: &(dyn Fn(Handed) + Sync)) -> Result<Answer, AskError> {
        let started = Instant::now();
        let mut handover = match &ask.context {
            None if ask.text.is_some() => Handover::Text { why: "only text was given".to_owned() },
            None => Handover::Nothing,
            Some(context) => choose(&identity_of(context), &self.identity(), self.resolution()),
        };
        let mut sent = 0;
        if let (Handover::Kv, Some(context)) = (&handover, &ask.context) {
            match self.ask_behind(context, ask, &mut sent, on).await {
                Err(AskError::Refused { code: Some(code), message })
                    if code.fault() == Fault::Incompatible && ask.text.is_some() =>
                {
                    handover = refused(&message);
                }
                other => return Ok(answer(other?, handover, sent, started)),
            }
        }
        let question = self.question(self.content(ask, &handover)?, ask, None);
        sent += send(&self.questions, question).await?;
        let reply = answer_on(&mut self.questions).await?;
        Ok(answer(reply, handover, sent, started))
    }

    /// Hands over a context without asking anything. Gives the bytes that were sent.
    ///
    /// # Errors
    /// [`AskError`]. The same context can be handed over again, on another connection too: what the peer has is not
    /// sent again.
    pub async fn hand_over(
        &mut self,
        context: &OutgoingContext,
        on: &(dyn Fn(Handed) + Sync),
    ) -> Result<u64, AskError> {
        if !self.has_announced(ext::BLAKE3) {
            return Err(AskError::NoSlabs);
        }
        if let Handover::Text { why } = choose(&identity_of(context), &self.identity(), self.resolution()) {
            return Err(AskError::OtherModel { why });
        }
        let context = self.with_free_id(context);
        let mut lane = self.transfers.open(context.transfer().as_str())?;
        let (described, stamp) = (self.described(&context), self.stamp());
        let delivery = Delivery::offer(&mut lane, &context, described, &stamp, &self.options).await?;
        delivery.complete(on).await
    }

    /// Ends the session after everything sent has arrived. The peer still writes the answer to a question that was given
    /// up; to end that too, drop this value instead.
    ///
    /// # Errors
    /// [`AskError::Transport`] if the peer does not end its side in time.
    pub async fn close(self) -> Result<(), AskError> {
        drop(self.questions);
        self.transfers.finish().await?;
        let rest = async {
            while self.transfers.accept().await?.is_some() {}
            Ok::<_, AskError>(())
        };
        timeout(self.options.timeouts.close, rest).await.unwrap_or(Err(AskError::Closed))
    }

    /// Asks behind the KV cache.
    async fn ask_behind(
        &mut self,
        context: &OutgoingContext,
        ask: &Ask,
        sent: &mut u64,
        on: &(dyn Fn(Handed) + Sync),
    ) -> Result<TextMessage, AskError> {
        let context = self.with_free_id(context);
        let mut lane = self.transfers.open(context.transfer().as_str())?;
        let question = self.question(ask.prompt.clone(), ask, Some(context.transfer()));
        let in_slabs = context.manifest().slab_count() > 1 && self.has_announced(ext::BLAKE3);
        if in_slabs {
            let (described, stamp) = (self.described(&context), self.stamp());
            let delivery = Delivery::offer(&mut lane, &context, described, &stamp, &self.options).await?;
            // Before the slabs: the peer reads it while they come.
            *sent += send(delivery.lane(), question).await?;
            *sent += delivery.complete(on).await?;
        } else {
            *sent += send(&lane, self.whole_frame(&context).await?).await?;
            *sent += send(&lane, question).await?;
        }
        answer_on(&mut lane).await
    }

    fn with_free_id(&mut self, context: &OutgoingContext) -> OutgoingContext {
        let is_free = self.used.insert(context.transfer().clone());
        if is_free { context.clone() } else { context.under_another_id() }
    }

    /// What is asked, behind the text where that goes instead of the cache.
    fn content(&self, ask: &Ask, handover: &Handover) -> Result<String, AskError> {
        let Handover::Text { why } = handover else { return Ok(ask.prompt.clone()) };
        let text = ask.text.as_ref().ok_or_else(|| AskError::NothingToHandOver { why: why.clone() })?;
        Ok(format!("{text}\n{}", ask.prompt))
    }

    fn question(&self, content: String, ask: &Ask, transfer: Option<&TransferId>) -> Frame {
        let session = self.established.session.id.as_str();
        let request = GenerateRequest::of(&ask.options);
        question_frame(session, &self.hello.agent_id, content, &request, transfer.map(TransferId::as_str))
    }

    /// The context as one frame.
    async fn whole_frame(&self, context: &OutgoingContext) -> Result<Frame, AskError> {
        let mut metadata = self.described(context);
        let id = context.transfer().as_str();
        mark_slab(&mut metadata, context.kv_header(), self.established.session.id.as_str(), id);
        let (context, pool) = (context.clone(), self.options.pool.clone());
        let read = tokio::task::spawn_blocking(move || context.whole(&pool));
        Ok(Frame::new(metadata, read.await.map_err(|_| AskError::Lost)??))
    }

    /// What is said of a context, addressed to this session and without what this peer did not announce.
    fn described(&self, context: &OutgoingContext) -> Metadata {
        let mut metadata = Metadata { ..context.metadata().clone() };
        metadata.extra.retain(|key, _| !key.starts_with("avp.") || self.has_announced(key));
        let Metadata { session_id, source_agent_id, target_agent_id, .. } = self.stamp();
        Metadata { session_id, source_agent_id, target_agent_id, ..metadata }
    }

    /// Between whom frames travel.
    fn stamp(&self) -> Metadata {
        Metadata {
            session_id: self.established.session.id.as_str().to_owned(),
            source_agent_id: self.hello.agent_id.clone(),
            target_agent_id: self.established.remote.agent_id.clone(),
            ..Metadata::default()
        }
    }

    fn has_announced(&self, key: &str) -> bool {
        self.established.capabilities.as_ref().is_some_and(|c| c.has_key(key))
    }
}

/// Sends a frame; gives its bytes.
async fn send(lane: &Transfer, frame: Frame) -> Result<u64, AskError> {
    let bytes = frame.payload.len() as u64;
    lane.send(frame, &EncodeOptions::default()).await?;
    Ok(bytes)
}

async fn answer_on(lane: &mut Transfer) -> Result<TextMessage, AskError> {
    let reply = loop {
        let reply = lane.recv().await?.ok_or(AskError::Closed)?;
        // That a transfer is whole may be said more than once.
        if reply.kind() != Ok(Some(FrameKind::Ack)) || reply.metadata.mode != Mode::Latent {
            break reply;
        }
    };
    if let Some(Reject { code, message }) = Reject::from_frame(&reply) {
        return Err(AskError::Refused { code, message });
    }
    TextMessage::from_json(&reply.payload).map_err(AskError::Answer)
}

fn answer(reply: TextMessage, handover: Handover, sent: u64, started: Instant) -> Answer {
    record_of(&reply).into_answer(reply.content, handover, sent, started.elapsed())
}

/// The model that made a context, as its metadata tell it.
fn identity_of(context: &OutgoingContext) -> ModelIdentity {
    let (header, metadata) = (context.kv_header(), context.metadata());
    let extra = |key: &str| metadata.extra.get(key).cloned().unwrap_or_default();
    ModelIdentity {
        model_family: extra(ext::MODEL_FAMILY),
        model_id: metadata.model_id.clone(),
        model_hash: extra(ext::MODEL_HASH),
        hidden_dim: metadata.hidden_dim,
        num_layers: header.num_layers,
        num_kv_heads: header.num_kv_heads,
        head_dim: header.head_dim,
        tokenizer_hash: String::new(),
    }
}

fn weights_of(context: &OutgoingContext) -> Option<&str> {
    context.metadata().extra.get(ext::WEIGHTS).map(String::as_str)
}
