//! The asking side: one connection to another agent.

#[cfg(target_os = "linux")]
mod device;
mod distributions;

use std::collections::HashSet;
use std::future::Future;
use std::time::Instant;

use avp_backend::GenerateOptions;
use avp_handshake::{
    Established, Hello, ModelIdentity, NegotiatorConfig, Resolution, TextMessage, without_device,
};
use avp_transport::{
    Options as TransportOptions, Transfer, Transfers, TransportUrl, connect, negotiate_client,
};
use avp_wire::ext::FrameKind;
use avp_wire::slab::TransferId;
use avp_wire::{Distribution, Fault, Frame, Metadata, Mode, ext};
use tokio::time::timeout;

use crate::agent::announce;
use crate::ask_error::AskError;
use crate::asking::{accepted, blocking, send};
use crate::choice::{Choice, choose, nothing_to_project, refused};
use crate::cross_model::{OutgoingHidden, Plan};
use crate::deliver::{Delivery, Handed};
use crate::exchange::{GenerateRequest, mark_slab, question_frame, record_of};
use crate::outgoing::OutgoingContext;
use crate::text_key::with_text;
use crate::turned_away::{explained, unless_refused};
use crate::{Answer, Handover, KvPath};

/// A question to another agent.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// What is asked.
    pub prompt: String,
    /// What was computed before, by an agent or from a file ([`open_context`](crate::open_context)).
    pub context: Option<OutgoingContext>,
    /// What was in its model's mind, for a peer of another model, to which it goes as distributions.
    pub hidden: Option<OutgoingHidden>,
    /// What either was computed from, for a peer that cannot take it; put before the prompt then, unless it ends with it.
    pub text: Option<String>,
    /// How the answer is to be written. Grammars are not sent: [`AskError::Grammar`].
    pub options: GenerateOptions,
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
    /// Whether the peer has taken the session up: it has answered.
    is_taken_up: bool,
}

impl Peer {
    /// Connects to `url` and negotiates as `hello`: [`Agent::hello`](crate::Agent::hello), or [`Peer::hello_for`]
    /// where no model is loaded here.
    ///
    /// # Errors
    /// [`AskError`] if nobody answers there, or the handshake fails.
    pub async fn connect(url: &str, mut hello: Hello, options: &TransportOptions) -> Result<Self, AskError> {
        let url: TransportUrl = url.parse()?;
        let mut connection = connect(&url, options).await?;
        if !connection.passes_descriptors() {
            without_device(&mut hello);
        }
        let config = NegotiatorConfig::new(hello.clone(), connection.peer_id());
        let established = negotiate_client(&mut connection, config).await?;
        let transfers = Transfers::over(connection);
        let (questions, options) = (transfers.open("")?, options.clone());
        let used = HashSet::new();
        Ok(Self { transfers, questions, established, hello, options, used, is_taken_up: false })
    }

    /// The hello of an agent that has a context but no model: the identity is that of the model that made it.
    #[must_use]
    pub fn hello_for(name: &str, context: Option<&OutgoingContext>) -> Hello {
        let mut hello = Hello { agent_id: name.to_owned(), ..Hello::default() };
        hello.identity = context.map(identity_of);
        announce(&mut hello, context.and_then(weights_of), None, None);
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
        if ask.options.grammar.is_some() {
            return Err(AskError::Grammar);
        }
        let started = Instant::now();
        let mut sent = 0;
        let route = match self.route(ask).await {
            Ok(route) => route,
            Err(error) => return Err(explained(&mut self.questions, error).await),
        };
        let handover = match route {
            Route::Nothing => Handover::Nothing,
            Route::Text(why) => Handover::Text { why },
            Route::Kv(context) => {
                let handover = Handover::Kv;
                match self.ask_behind(context, ask, &mut sent, on).await {
                    Err(error) => Self::or_text("KV cache", error, ask)?,
                    Ok((reply, path)) => {
                        let answer = answer(reply, handover, sent, started);
                        return Ok(Answer { kv_path: Some(path), ..answer });
                    }
                }
            }
            Route::Distributions(distributions, handover) => {
                match self.ask_behind_distributions(distributions, ask, &handover, &mut sent).await {
                    Err(error) => Self::or_text("distributions", error, ask)?,
                    Ok(reply) => return Ok(answer(reply, handover, sent, started)),
                }
            }
        };
        let question = self.question(self.content(ask, &handover)?, ask, &handover, None);
        let asked = async {
            sent += send(&self.questions, question).await?;
            answer_on(&mut self.questions).await
        };
        let reply = match asked.await {
            Ok(reply) => reply,
            Err(error) => return Err(explained(&mut self.questions, error).await),
        };
        self.is_taken_up = true;
        Ok(answer(reply, handover, sent, started))
    }

    /// What goes: what was computed as far as the session allows it, the models have something in common, and the quality gate
    /// finds it good enough; else text.
    async fn route<'a>(&mut self, ask: &'a Ask) -> Result<Route<'a>, AskError> {
        let Ask { context, hidden, text, .. } = ask;
        let local = match (context, hidden) {
            (Some(context), _) => identity_of(context),
            (None, Some(hidden)) => hidden.agent.backend().info().identity.clone(),
            (None, None) if text.is_some() => return Ok(Route::Text("only text was given".to_owned())),
            (None, None) => return Ok(Route::Nothing),
        };
        let remote = self.identity();
        match (choose(&local, &remote, self.resolution()), context, hidden) {
            (Choice::Kv, Some(context), _) => Ok(Route::Kv(context)),
            (_, _, Some(hidden)) => match self.project(hidden).await? {
                Plan::Send { distributions, handover } => Ok(Route::Distributions(distributions, handover)),
                Plan::Text(why) => Ok(Route::Text(why)),
            },
            (Choice::Text { why }, ..) => Ok(Route::Text(why)),
            (Choice::Distribution | Choice::Kv, ..) => {
                Ok(Route::Text(nothing_to_project(&remote, self.resolution())))
            }
        }
    }

    /// What to do after a receiver refused what the session promised: text, where there is some and models do not fit.
    fn or_text(what: &str, error: AskError, ask: &Ask) -> Result<Handover, AskError> {
        match error {
            AskError::Refused { code: Some(code), message }
                if code.fault() == Fault::Incompatible && ask.text.is_some() =>
            {
                Ok(refused(what, &message))
            }
            error => Err(error),
        }
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
        match choose(&identity_of(context), &self.identity(), self.resolution()) {
            Choice::Kv => {}
            Choice::Text { why } => return Err(AskError::OtherModel { why }),
            Choice::Distribution => {
                let why = nothing_to_project(&self.identity(), self.resolution());
                return Err(AskError::OtherModel { why });
            }
        }
        let context = self.with_free_id(context);
        let mut lane = self.transfers.open(context.transfer().as_str())?;
        let (described, stamp) = (self.described(&context), self.stamp());
        let options = self.options.clone();
        let handing = async {
            let delivery = Delivery::offer(&mut lane, &context, described, &stamp, &options).await?;
            delivery.complete(on).await
        };
        self.unless_turned_away(handing).await
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
    ) -> Result<(TextMessage, KvPath), AskError> {
        #[cfg(target_os = "linux")]
        let why = match self.ask_on_device(context, ask, sent).await? {
            Ok(reply) => return Ok((reply, KvPath::Device)),
            Err(why) => why,
        };
        #[cfg(not(target_os = "linux"))]
        let why = None;
        let context = self.with_free_id(context);
        let mut lane = self.transfers.open(context.transfer().as_str())?;
        let question = self.question(ask.prompt.clone(), ask, &Handover::Kv, Some(context.transfer()));
        let in_slabs = context.manifest().slab_count() > 1 && self.has_announced(ext::BLAKE3);
        let whole = if in_slabs { None } else { Some(self.whole_frame(&context).await?) };
        let (described, stamp, options) = (self.described(&context), self.stamp(), self.options.clone());
        let asking = async {
            if let Some(whole) = whole {
                *sent += send(&lane, whole).await?;
                *sent += send(&lane, question).await?;
            } else {
                let delivery = Delivery::offer(&mut lane, &context, described, &stamp, &options).await?;
                // Before the slabs: the peer reads it while they come.
                *sent += send(delivery.lane(), question).await?;
                *sent += delivery.complete(on).await?;
            }
            answer_on(&mut lane).await
        };
        Ok((self.unless_turned_away(asking).await?, KvPath::Host { why }))
    }

    /// What `work` on a transfer gives, unless the peer has no place for this session.
    async fn unless_turned_away<T>(
        &mut self,
        work: impl Future<Output = Result<T, AskError>>,
    ) -> Result<T, AskError> {
        if self.is_taken_up {
            return work.await;
        }
        let outcome = unless_refused(&mut self.questions, work).await;
        self.is_taken_up = outcome.is_ok();
        outcome
    }

    fn with_free_id(&mut self, context: &OutgoingContext) -> OutgoingContext {
        let is_free = self.used.insert(context.transfer().clone());
        if is_free { context.clone() } else { context.under_another_id() }
    }

    /// What is asked, behind the text where that goes instead of the cache.
    fn content(&self, ask: &Ask, handover: &Handover) -> Result<String, AskError> {
        let Handover::Text { why } = handover else { return Ok(ask.prompt.clone()) };
        let text = ask.text.as_ref().ok_or_else(|| AskError::NothingToHandOver { why: why.clone() })?;
        Ok(with_text(text, &ask.prompt))
    }

    fn question(
        &self,
        content: String,
        ask: &Ask,
        handover: &Handover,
        transfer: Option<&TransferId>,
    ) -> Frame {
        let session = self.established.session.id.as_str();
        let request = GenerateRequest::of(&ask.options);
        let transfer = transfer.map(TransferId::as_str);
        question_frame(session, &self.hello.agent_id, content, &request, handover, transfer)
    }

    /// The context as one frame.
    async fn whole_frame(&self, context: &OutgoingContext) -> Result<Frame, AskError> {
        let metadata = self.described_as_one(context);
        let (context, pool) = (context.clone(), self.options.pool.clone());
        Ok(Frame::new(metadata, blocking(move || context.whole(&pool)).await??))
    }

    /// What is said of a context that goes in one frame.
    fn described_as_one(&self, context: &OutgoingContext) -> Metadata {
        let mut metadata = self.described(context);
        let id = context.transfer().as_str();
        mark_slab(&mut metadata, context.kv_header(), self.established.session.id.as_str(), id);
        metadata
    }

    /// What is said of a context, addressed to this session and without what this peer did not announce.
    fn described(&self, context: &OutgoingContext) -> Metadata {
        let mut metadata = context.metadata().clone();
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

/// What goes to the peer.
enum Route<'a> {
    Nothing,
    Kv(&'a OutgoingContext),
    Distributions(Vec<Distribution>, Handover),
    /// Why nothing else.
    Text(String),
}

async fn answer_on(lane: &mut Transfer) -> Result<TextMessage, AskError> {
    let reply = loop {
        let reply = lane.recv().await?.ok_or(AskError::Closed)?;
        // That a transfer is whole may be said more than once.
        if reply.kind() != Ok(Some(FrameKind::Ack)) || reply.metadata.mode != Mode::Latent {
            break reply;
        }
    };
    TextMessage::from_json(&accepted(reply)?.payload).map_err(AskError::Answer)
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
