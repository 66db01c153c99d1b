//! One session of an agent that serves: each transfer in a lane of its own, questions answered behind their contexts.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use avp_backend::{
    Backend, Context, ContextError, GenerateError, GenerateOptions, Generation, Prompt, generate,
};
use avp_handshake::{NegotiatorConfig, Reject, TextMessage};
use avp_transport::{
    Connection, Deadline, LimitExceeded, Transfer, Transfers, TransportError, negotiate_server,
};
use avp_wire::ext::{self, FrameKind};
use avp_wire::slab::{Ack, TransferId};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata, Mode, PayloadType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::choice::is_incompatible;
use crate::context_sink::ContextSink;
use crate::exchange::{GenerateRequest, answer_frame, request_of};
use crate::incoming::{self, lock};
use crate::server::{Served, Shared};

/// How long a peer for whom there is no place may take to hear that.
const PARTING: Duration = Duration::from_secs(1);

/// What the lanes of a session share.
struct Session {
    shared: Arc<Shared>,
    id: String,
    peer_name: String,
    /// Who the peer is, where that was shown.
    sender: Option<String>,
    /// Places for contexts.
    contexts: Arc<Semaphore>,
    /// Questions that are being answered.
    answering: AtomicUsize,
    /// The peer has ended its side: nobody waits for answers.
    gone: Arc<AtomicBool>,
}

/// Negotiates and serves until the peer ends its side.
pub(crate) async fn run(shared: Arc<Shared>, mut connection: Connection) -> Result<(), TransportError> {
    let mut config = NegotiatorConfig::new(shared.agent.hello(), connection.peer_id());
    config.policy = shared.options.policy;
    let established = negotiate_server(&mut connection, config).await?;
    let places = Arc::clone(&shared);
    let Ok(_place) = places.sessions.try_acquire() else {
        return turn_away(connection, shared.options.max_sessions).await;
    };
    let session = Arc::new(Session {
        id: established.session.id.as_str().to_owned(),
        peer_name: established.remote.agent_id.clone(),
        sender: connection.peer().identity().map(str::to_owned),
        contexts: Arc::new(Semaphore::new(shared.options.max_contexts)),
        answering: AtomicUsize::new(0),
        gone: Arc::new(AtomicBool::new(false)),
        shared,
    });
    let transfers = Transfers::over(connection);
    let mut lanes = JoinSet::new();
    let outcome = loop {
        tokio::select! {
            lane = transfers.accept() => match lane {
                Ok(Some(lane)) => drop(lanes.spawn(Lane::new(&session, lane).run())),
                Ok(None) => break Ok(()),
                Err(error) if session.can_go_on(&error) => {}
                Err(error) if is_idle(&error) => return Err(error),
                Err(error) => break Err(error),
            },
            Some(_) = lanes.join_next() => {}
        }
    };
    // Nobody waits for answers, but slabs that have come are kept.
    session.gone.store(true, Ordering::Relaxed);
    while lanes.join_next().await.is_some() {}
    outcome?;
    transfers.finish().await
}

/// Tells a peer that there is no place for it.
async fn turn_away(mut connection: Connection, most: usize) -> Result<(), TransportError> {
    let message = format!("this agent holds {most} sessions, its most; try again later");
    let reject = Reject::new(ErrorCode::Busy, message).to_frame();
    let parting = async {
        connection.send_frame(&reject, &EncodeOptions::default()).await?;
        connection.close().await
    };
    timeout(PARTING, parting).await.unwrap_or(Ok(()))
}

impl Session {
    /// Whether an error of the connection leaves it usable: a peer that waits for its answer may be silent.
    fn can_go_on(&self, error: &TransportError) -> bool {
        match is_idle(error) {
            true => self.answering.load(Ordering::Relaxed) > 0,
            false => error.is_recoverable(),
        }
    }
}

pub(crate) fn is_idle(error: &TransportError) -> bool {
    matches!(error, TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Idle, .. }))
}

/// One transfer: a context and what is asked about it, or, with the empty id, questions without one.
struct Lane {
    session: Arc<Session>,
    transfer: Transfer,
    context: Given,
    /// The context's place among those of the session.
    place: Option<OwnedSemaphorePermit>,
    /// The question that is being answered.
    answering: JoinSet<Result<Frame, Reject>>,
    /// A question that waits for it.
    next: Option<Frame>,
}

/// The context that came over a lane.
enum Given {
    Nothing,
    /// In one frame, for one question.
    Whole(Result<Context, Reject>),
    /// In slabs; known to later connections too.
    Slabs(incoming::Shared<ContextSink>),
}

/// What a question builds on.
enum Behind {
    Nothing,
    Context(Context),
    Slabs(incoming::Shared<ContextSink>),
}

enum Step {
    Answered(Result<Frame, Reject>),
    Came(Result<Option<Frame>, TransportError>),
}

impl Lane {
    fn new(session: &Arc<Session>, transfer: Transfer) -> Self {
        let (session, answering) = (Arc::clone(session), JoinSet::new());
        Self { session, transfer, context: Given::Nothing, place: None, answering, next: None }
    }

    async fn run(mut self) {
        if let Err(error) = self.serve().await {
            tracing::debug!(%error, transfer = self.transfer.id(), "a transfer ended early");
        }
    }

    /// Serves until the lane's work is done, or the peer has ended its side and heard its answers.
    async fn serve(&mut self) -> Result<(), TransportError> {
        let mut open = true;
        while open || !self.answering.is_empty() {
            match self.step(open).await {
                Step::Answered(reply) => {
                    self.reply(reply.unwrap_or_else(|reject| reject.to_frame())).await?;
                    if let Some(next) = self.next.take() {
                        if self.take(next).await?.is_break() {
                            return Ok(());
                        }
                    } else if self.is_done() {
                        return Ok(());
                    }
                }
                Step::Came(Ok(Some(frame))) if self.is_busy(&frame) => self.next = Some(frame),
                Step::Came(Ok(Some(frame))) => {
                    if self.take(frame).await?.is_break() {
                        return Ok(());
                    }
                }
                Step::Came(Ok(None)) => open = false,
                Step::Came(Err(error)) if is_idle(&error) && self.session.can_go_on(&error) => {}
                Step::Came(Err(error)) if error.is_recoverable() && !is_idle(&error) => {
                    self.damaged(error).await?;
                }
                Step::Came(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn step(&mut self, open: bool) -> Step {
        let Self { answering, transfer, next, .. } = self;
        tokio::select! {
            biased;
            Some(reply) = answering.join_next() => Step::Answered(reply.unwrap_or_else(|_| Err(internal()))),
            frame = transfer.recv(), if open && next.is_none() => Step::Came(frame),
        }
    }

    /// Whether a frame is a question that has to wait for the one before.
    fn is_busy(&self, frame: &Frame) -> bool {
        !self.answering.is_empty() && frame.kind() == Ok(Some(FrameKind::Text))
    }

    /// Whether nothing more is to come for a context that was asked about.
    fn is_done(&self) -> bool {
        match &self.context {
            _ if self.transfer.id().is_empty() => false,
            Given::Slabs(incoming) => lock(incoming).whole().is_some(),
            _ => true,
        }
    }

    /// Takes a frame; breaks where the lane ends with it.
    async fn take(&mut self, frame: Frame) -> Result<ControlFlow<()>, TransportError> {
        let is_manifest = frame.kind() == Ok(Some(FrameKind::Manifest));
        match self.handle(frame).await {
            Ok(None) => Ok(ControlFlow::Continue(())),
            Ok(Some(reply)) => self.reply(reply).await.map(ControlFlow::Continue),
            Err(reject) => {
                self.reply(reject.to_frame()).await?;
                Ok(if is_manifest { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            }
        }
    }

    async fn reply(&self, frame: Frame) -> Result<(), TransportError> {
        self.transfer.send(frame, &EncodeOptions::default()).await
    }

    /// The reply to a frame; a question's comes when it is answered.
    async fn handle(&mut self, frame: Frame) -> Result<Option<Frame>, Reject> {
        if frame.metadata.session_id != self.session.id {
            return Err(Reject::new(ErrorCode::UnknownSession, "this connection has another session"));
        }
        let kind = frame.kind().map_err(|e| Reject::new(e.code(), e.to_string()))?;
        match kind {
            Some(FrameKind::Text) if frame.metadata.mode == Mode::Json => {
                self.question(&frame).map(|()| None)
            }
            Some(FrameKind::Manifest) => self.manifest(frame).await.map(Some),
            Some(FrameKind::Slab)
                if frame.metadata.payload_type == PayloadType::KvCache && !self.transfer.id().is_empty() =>
            {
                self.slab(frame).await
            }
            _ => {
                Err(Reject::new(ErrorCode::UnexpectedFrame, "expected a context (slab) or a question (text)"))
            }
        }
    }

    /// A frame whose payload was damaged or too large. Of a context in slabs it is asked for again; for a context in one
    /// frame the question that builds on it is refused; a question is refused at once.
    async fn damaged(&mut self, error: TransportError) -> Result<(), TransportError> {
        let reject = Reject::new(error.code(), error.to_string());
        let lost = match &self.context {
            Given::Slabs(incoming) => Some(lock(incoming).lost()),
            _ => None,
        };
        let reply = match lost {
            Some(Ok(ack)) => ack.map(|ack| self.acknowledge(&ack)),
            Some(Err(reject)) => Some(reject.to_frame()),
            None if matches!(self.context, Given::Nothing) && !self.transfer.id().is_empty() => {
                self.context = Given::Whole(Err(reject));
                None
            }
            None => Some(reject.to_frame()),
        };
        match reply {
            Some(reply) => self.reply(reply).await,
            None => Ok(()),
        }
    }

    async fn manifest(&mut self, frame: Frame) -> Result<Frame, Reject> {
        self.take_place()?;
        let session = Arc::clone(&self.session);
        let begun = blocking(move || {
            let shared = &session.shared;
            shared.transfers.manifest(session.sender.clone(), &frame, |manifest, _| {
                ContextSink::begin(&frame.metadata, &manifest.kv, &shared.agent, shared.options.policy)
            })
        });
        let (incoming, ack) = begun.await??;
        self.context = Given::Slabs(incoming);
        Ok(self.acknowledge(&ack))
    }

    async fn slab(&mut self, frame: Frame) -> Result<Option<Frame>, Reject> {
        if let Given::Slabs(incoming) = &self.context {
            let incoming = Arc::clone(incoming);
            let ack = blocking(move || lock(&incoming).slab(&frame)).await??;
            return Ok(ack.map(|ack| self.acknowledge(&ack)));
        }
        // The question will hear what is wrong with it.
        self.context = Given::Whole(match self.take_place() {
            Ok(()) => import(Arc::clone(&self.session.shared), frame).await,
            Err(reject) => Err(reject),
        });
        Ok(None)
    }

    fn take_place(&mut self) -> Result<(), Reject> {
        if self.place.is_none() {
            let most = self.session.shared.options.max_contexts;
            let busy =
                || Reject::new(ErrorCode::Busy, format!("this session holds {most} contexts, its most"));
            let place = Arc::clone(&self.session.contexts).try_acquire_owned();
            self.place = Some(place.map_err(|_| busy())?);
        }
        Ok(())
    }

    fn acknowledge(&self, ack: &Ack) -> Frame {
        let metadata = Metadata {
            session_id: self.session.id.clone(),
            source_agent_id: self.session.shared.agent.name().to_owned(),
            ..Metadata::default()
        };
        match self.transfer.id().parse::<TransferId>() {
            Ok(id) => ack.to_frame(metadata, &id),
            // A manifest without a sound id was refused.
            Err(_) => internal().to_frame(),
        }
    }

    /// Begins to answer a question.
    fn question(&mut self, frame: &Frame) -> Result<(), Reject> {
        let message = TextMessage::from_json(&frame.payload)
            .map_err(|error| Reject::new(ErrorCode::InvalidArgument, error.to_string()))?;
        let request = request_of(&message)
            .ok_or_else(|| Reject::new(ErrorCode::InvalidArgument, "extra.generate has a wrong type"))?;
        let behind = match frame.metadata.extra.get(ext::TRANSFER) {
            None => Behind::Nothing,
            Some(_) => self.context_for_question()?,
        };
        self.answering.spawn(answer(Arc::clone(&self.session), message.content, behind, request));
        Ok(())
    }

    fn context_for_question(&mut self) -> Result<Behind, Reject> {
        match std::mem::replace(&mut self.context, Given::Nothing) {
            Given::Nothing => Err(Reject::new(ErrorCode::SlabsMissing, "no context came for this transfer")),
            Given::Whole(context) => context.map(Behind::Context),
            Given::Slabs(incoming) => {
                self.context = Given::Slabs(Arc::clone(&incoming));
                Ok(Behind::Slabs(incoming))
            }
        }
    }
}

async fn answer(
    session: Arc<Session>,
    prompt: String,
    behind: Behind,
    request: GenerateRequest,
) -> Result<Frame, Reject> {
    let _counted = Counted::new(&session);
    let shared = &session.shared;
    let options = request.options(shared.options.max_tokens);
    let _turn = shared.generations.acquire().await.map_err(|_| internal())?;
    let cancel = Cancel(Arc::new(AtomicBool::new(false)));
    let stop = Stop { dropped: Arc::clone(&cancel.0), gone: Arc::clone(&session.gone) };
    let backend: Arc<dyn Backend> = Arc::clone(shared.agent.backend());
    let prompt = Prompt::User(prompt);
    let run = blocking(move || write(backend.as_ref(), &prompt, behind, &options, &stop));
    let (generation, verification) = run.await??;
    (shared.on_served)(&Served {
        peer: session.peer_name.clone(),
        context_tokens: generation.context_tokens,
        prompt_tokens: generation.prompt_tokens,
        answer_tokens: generation.tokens.len(),
    });
    Ok(answer_frame(&session.id, shared.agent.name(), generation, verification))
}

/// Generates behind a context, which may still be arriving.
fn write(
    backend: &dyn Backend,
    prompt: &Prompt,
    behind: Behind,
    options: &GenerateOptions,
    stop: &Stop,
) -> Result<(Generation, Option<avp_backend::Verification>), Reject> {
    let on_event = &mut |_: avp_backend::GenerateEvent<'_>| stop.flow();
    let refused = |has_context| {
        move |error: GenerateError| Reject::new(generate_code(&error, has_context), error.to_string())
    };
    let context = match behind {
        Behind::Nothing => None,
        Behind::Context(context) => Some(context),
        Behind::Slabs(incoming) => {
            let followed = {
                let mut incoming = lock(&incoming);
                match incoming.sink() {
                    Some(sink) => Err(sink.follow()?),
                    None => Ok(incoming.whole().ok_or_else(internal)??),
                }
            };
            match followed {
                Ok(context) => Some(context),
                Err(arriving) => {
                    let verification = arriving.verification();
                    let written = arriving.generate(backend, prompt, options, on_event, || stop.is_set());
                    let generation = written.map_err(refused(true))?;
                    // What was computed with counts only if the whole was what its sender meant.
                    lock(&incoming).whole().ok_or_else(internal)??;
                    return Ok((generation, Some(verification)));
                }
            }
        }
    };
    let generation = generate(backend, prompt, context.as_ref(), options, on_event);
    let generation = generation.map_err(refused(context.is_some()))?;
    Ok((generation, context.as_ref().map(Context::verification)))
}

async fn import(shared: Arc<Shared>, frame: Frame) -> Result<Context, Reject> {
    let run = move || Context::from_frame(&frame, shared.agent.backend().as_ref(), shared.options.policy);
    blocking(run).await?.map_err(|error| import_refusal(&error))
}

/// Counts a question as being answered for as long as it lives.
struct Counted(Arc<Session>);

impl Counted {
    fn new(session: &Arc<Session>) -> Self {
        session.answering.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(session))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends a generation whose session is dropped.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// When a generation is of no use to anybody.
struct Stop {
    dropped: Arc<AtomicBool>,
    gone: Arc<AtomicBool>,
}

impl Stop {
    fn is_set(&self) -> bool {
        self.dropped.load(Ordering::Relaxed) || self.gone.load(Ordering::Relaxed)
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Reject> {
    tokio::task::spawn_blocking(run).await.map_err(|_| internal())
}

pub(crate) fn internal() -> Reject {
    Reject::new(ErrorCode::Internal, "the engine's thread ended without a result")
}

pub(crate) fn import_refusal(error: &ContextError) -> Reject {
    Reject::new(import_code(error), error.to_string())
}

fn import_code(error: &ContextError) -> ErrorCode {
    match error {
        ContextError::Payload(error) => error.code(),
        ContextError::OtherWeights { .. } => ErrorCode::WeightsMismatch,
        ContextError::Unverified { .. } => ErrorCode::Unverified,
        error if is_incompatible(error) => ErrorCode::KvModelMismatch,
        ContextError::Backend(_) => ErrorCode::Internal,
        _ => ErrorCode::InvalidArgument,
    }
}

fn generate_code(error: &GenerateError, has_context: bool) -> ErrorCode {
    match error {
        // The cache that the peer sent holds NaN, infinities or numbers that become such.
        GenerateError::NonFinite { .. } if has_context => ErrorCode::InvalidArgument,
        GenerateError::Context(error) => import_code(error),
        GenerateError::Backend(_) | GenerateError::NonFinite { .. } => ErrorCode::Internal,
        _ => ErrorCode::InvalidArgument,
    }
}
