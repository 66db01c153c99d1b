//! The asking side: one connection to another agent.

use std::time::Instant;

use avp_backend::{ContextError, GenerateOptions};
use avp_handshake::{
    Established, Hello, MessageError, ModelIdentity, NegotiatorConfig, Reject, Resolution, TextMessage,
};
use avp_transport::{
    Connection, Options as TransportOptions, TransportError, TransportUrl, UrlError, connect,
    negotiate_client,
};
use avp_wire::{EncodeOptions, ErrorCode, Fault, Frame, KvError, ext};

use crate::agent::announce;
use crate::choice::{choose, refused};
use crate::exchange::{GenerateRequest, mark_slab, question_frame, record_of};
use crate::{Answer, Handover};

/// A question to another agent.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// What is asked.
    pub prompt: String,
    /// What was computed before, as [`Context::to_frame`](avp_backend::Context::to_frame) or
    /// [`read_frame`](crate::read_frame) give it.
    pub context: Option<Frame>,
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
    /// The peer ended the connection instead of answering.
    #[error("the peer closed the connection without an answer; see its log")]
    Closed,
}

impl From<KvError> for AskError {
    fn from(error: KvError) -> Self {
        Self::Context(error.into())
    }
}

/// A session with another agent.
#[derive(Debug)]
pub struct Peer {
    connection: Connection,
    established: Box<Established>,
    hello: Hello,
    transfers: u64,
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
        Ok(Self { connection, established, hello, transfers: 0 })
    }

    /// The hello of an agent that has a context but no model: the identity is that of the model that made it.
    ///
    /// # Errors
    /// [`AskError::Context`] if the frame is not a context.
    pub fn hello_for(name: &str, context: Option<&Frame>) -> Result<Hello, AskError> {
        let mut hello = Hello { agent_id: name.to_owned(), ..Hello::default() };
        let mut weights = None;
        if let Some(frame) = context {
            hello.identity = Some(identity_of(frame)?);
            weights = frame.metadata.extra.get(ext::WEIGHTS).map(String::as_str);
        }
        announce(&mut hello, weights);
        Ok(hello)
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
        let started = Instant::now();
        let mut handover = match &ask.context {
            None if ask.text.is_some() => Handover::Text { why: "only text was given".to_owned() },
            None => Handover::Nothing,
            Some(frame) => choose(&identity_of(frame)?, &self.identity(), self.resolution()),
        };
        let mut sent = 0;
        if handover == Handover::Kv {
            match self.exchange(ask, &handover, &mut sent).await {
                Err(AskError::Refused { code: Some(code), message })
                    if code.fault() == Fault::Incompatible && ask.text.is_some() =>
                {
                    handover = refused(&message);
                }
                other => return Ok(answer(other?, handover, sent, started)),
            }
        }
        let reply = self.exchange(ask, &handover, &mut sent).await?;
        Ok(answer(reply, handover, sent, started))
    }

    /// Ends the session after everything sent has arrived.
    ///
    /// # Errors
    /// [`AskError::Transport`] if the peer does not end its side in time.
    pub async fn close(self) -> Result<(), AskError> {
        Ok(self.connection.close().await?)
    }

    async fn exchange(
        &mut self,
        ask: &Ask,
        handover: &Handover,
        sent: &mut u64,
    ) -> Result<TextMessage, AskError> {
        let session = self.established.session.id.as_str().to_owned();
        let mut transfer = None;
        let mut content = ask.prompt.clone();
        match handover {
            Handover::Kv => {
                self.transfers += 1;
                let id = self.transfers.to_string();
                if let Some(frame) = &ask.context {
                    let frame = self.stamped(frame, &session, &id)?;
                    *sent += self.send(&frame).await?;
                }
                transfer = Some(id);
            }
            Handover::Text { why } => {
                let text =
                    ask.text.as_ref().ok_or_else(|| AskError::NothingToHandOver { why: why.clone() })?;
                content = format!("{text}\n{content}");
            }
            Handover::Nothing => {}
        }
        let request = GenerateRequest::of(&ask.options);
        let question = question_frame(&session, &self.hello.agent_id, content, &request, transfer.as_deref());
        *sent += self.send(&question).await?;
        let reply = self.connection.recv().await?.ok_or(AskError::Closed)?;
        if let Some(Reject { code, message }) = Reject::from_frame(&reply) {
            return Err(AskError::Refused { code, message });
        }
        TextMessage::from_json(&reply.payload).map_err(AskError::Answer)
    }

    /// The context's frame, addressed to this session and without what this peer did not announce.
    fn stamped(&self, frame: &Frame, session: &str, transfer: &str) -> Result<Frame, AskError> {
        let mut frame = frame.clone();
        let header = *frame.kv()?.header();
        let announced = |key: &str| self.established.capabilities.as_ref().is_some_and(|c| c.has_key(key));
        frame.metadata.extra.retain(|key, _| !key.starts_with("avp.") || announced(key));
        frame.metadata.source_agent_id.clone_from(&self.hello.agent_id);
        frame.metadata.target_agent_id.clone_from(&self.established.remote.agent_id);
        mark_slab(&mut frame.metadata, &header, session, transfer);
        Ok(frame)
    }

    async fn send(&mut self, frame: &Frame) -> Result<u64, AskError> {
        Ok(self.connection.send_frame(frame, &EncodeOptions::default()).await? as u64)
    }
}

fn answer(reply: TextMessage, handover: Handover, sent: u64, started: Instant) -> Answer {
    record_of(&reply).into_answer(reply.content, handover, sent, started.elapsed())
}

/// The model that made a context, as its frame tells it.
fn identity_of(frame: &Frame) -> Result<ModelIdentity, KvError> {
    let header = *frame.kv()?.header();
    let metadata = &frame.metadata;
    let extra = |key: &str| metadata.extra.get(key).cloned().unwrap_or_default();
    Ok(ModelIdentity {
        model_family: extra(ext::MODEL_FAMILY),
        model_id: metadata.model_id.clone(),
        model_hash: extra(ext::MODEL_HASH),
        hidden_dim: metadata.hidden_dim,
        num_layers: header.num_layers,
        num_kv_heads: header.num_kv_heads,
        head_dim: header.head_dim,
        tokenizer_hash: String::new(),
    })
}
