//! One session of an agent that serves: each transfer in a lane of its own, questions answered behind their contexts.

use std::collections::VecDeque;
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
use avp_wire::slab::{Ack, Round, TransferId};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata, Mode, PayloadType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::choice::is_incompatible;
use crate::context_sink::ContextSink;
use crate::exchange::{GenerateRequest, answer_frame, request_of};
use crate::incoming::{self, Answer, lock};
use crate::server::{Served, Shared};

/// Questions of one transfer that may wait for the one that is being answered.
const MAX_WAITING: usize = 16;
/// How often a question whose turn is not to come before its context looks whether that is there.
const LOOK: Duration = Duration::from_millis(20);
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
pub(crate) async fn turn_away(mut connection: Connection, most: usize) -> Result<(), TransportError> {
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
    /// Questions that wait for it.
    waiting: VecDeque<Frame>,
}

/// The context that came over a lane.
enum Given {
    Nothing,
    /// In one frame, for one question.
    Whole(Result<Context, Reject>),
    /// In slabs; known to later connections too. What was asked for is this one's own.
    Slabs(incoming::Shared<ContextSink>, Round),
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
        let (context, waiting) = (Given::Nothing, VecDeque::new());
        Self { session, transfer, context, place: None, answering, waiting }
    }

    async fn run(mut self) {
        if let Err(error) = self.serve().await {
            tracing::debug!(%error, transfer = self.transfer.id(), "a transfer ended early");
        }
    }

    /// Serves until the lane's work is done, or the peer has ended its side and heard what was left to say.
    async fn serve(&mut self) -> Result<(), TransportError> {
        let mut open = true;
        while open || !self.answering.is_empty() {
            let flow = match self.step(open).await {
                Step::Answered(reply) => self.answered(reply).await?,
                Step::Came(Ok(Some(frame))) => self.take(frame).await?,
                Step::Came(Ok(None)) => {
                    open = false;
                    ControlFlow::Continue(())
                }
                Step::Came(Err(error)) if is_idle(&error) && self.session.can_go_on(&error) => {
                    ControlFlow::Continue(())
                }
                Step::Came(Err(error)) if error.is_recoverable() && !is_idle(&error) => {
                    self.damaged(error).await?
                }
                Step::Came(Err(error)) => return Err(error),
            };
            if flow.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn step(&mut self, open: bool) -> Step {
        let Self { answering, transfer, .. } = self;
        tokio::select! {
            biased;
            Some(reply) = answering.join_next() => Step::Answered(reply.unwrap_or_else(|_| Err(internal()))),
            frame = transfer.recv(), if open => Step::Came(frame),
        }
    }

    /// Says the answer, and goes on with the next question.
    async fn answered(&mut self, reply: Result<Frame, Reject>) -> Result<ControlFlow<()>, TransportError> {
        self.reply(reply.unwrap_or_else(|reject| reject.to_frame())).await?;
        while self.answering.is_empty()
            && let Some(next) = self.waiting.pop_front()
        {
            if let Err(reject) = self.question(&next) {
                self.reply(reject.to_frame()).await?;
            }
        }
        let is_over = self.answering.is_empty() && self.is_done();
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Whether nothing more is to come for a context that was asked about.
    fn is_done(&self) -> bool {
        match &self.context {
            _ if self.transfer.id().is_empty() => false,
            // One that is locked is in use.
            Given::Slabs(incoming, _) => incoming.try_lock().is_ok_and(|incoming| incoming.whole().is_some()),
            _ => true,
        }
    }

    /// Takes a frame; breaks where the lane ends with it.
    async fn take(&mut self, frame: Frame) -> Result<ControlFlow<()>, TransportError> {
        let kind = frame.kind();
        let refusal = match self.handle(frame).await {
            Ok(replies) => {
                for reply in replies {
                    self.reply(reply).await?;
                }
                return Ok(self.settle());
            }
            Err(refusal) => refusal,
        };
        self.reply(refusal.to_frame()).await?;
        // A sender whose manifest or question was refused has no use for the rest.
        let is_last = match kind {
            Ok(Some(FrameKind::Manifest)) => true,
            Ok(Some(FrameKind::Text)) => self.answering.is_empty() && !self.transfer.id().is_empty(),
            _ => false,
        };
        Ok(if is_last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Gives the place of a context back that is whole, since it is kept elsewhere; breaks where one has failed.
    fn settle(&mut self) -> ControlFlow<()> {
        let Given::Slabs(incoming, _) = &self.context else { return ControlFlow::Continue(()) };
        match incoming.try_lock().ok().and_then(|incoming| incoming.whole()) {
            Some(Ok(_)) => {
                self.place = None;
                ControlFlow::Continue(())
            }
            Some(Err(_)) if self.answering.is_empty() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    async fn reply(&self, frame: Frame) -> Result<(), TransportError> {
        self.transfer.send(frame, &EncodeOptions::default()).await
    }

    /// The replies to a frame; a question's comes when it is answered.
    async fn handle(&mut self, frame: Frame) -> Result<Vec<Frame>, Reject> {
        if frame.metadata.session_id != self.session.id {
            return Err(Reject::new(ErrorCode::UnknownSession, "this connection has another session"));
        }
        let named = frame.metadata.extra.get(ext::TRANSFER).map_or("", String::as_str);
        if named != self.transfer.id() {
            return Err(Reject::new(ErrorCode::UnexpectedFrame, "the frame is of another transfer"));
        }
        let kind = frame.kind().map_err(|e| Reject::new(e.code(), e.to_string()))?;
        match kind {
            Some(FrameKind::Text) if frame.metadata.mode == Mode::Json => {
                self.question_in_turn(frame).map(|()| Vec::new())
            }
            Some(FrameKind::Manifest) => self.manifest(frame).await.map(|reply| vec![reply]),
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
    /// frame the question that builds on it is refused; anything else is refused at once.
    async fn damaged(&mut self, error: TransportError) -> Result<ControlFlow<()>, TransportError> {
        let reject = Reject::new(error.code(), error.to_string());
        let is_slab = matches!(error.lost_kind(), Some(FrameKind::Slab) | None);
        match &mut self.context {
            Given::Slabs(incoming, round) if is_slab => {
                let answer = lock(incoming).lost(round);
                for reply in self.replies(answer) {
                    self.reply(reply).await?;
                }
                Ok(self.settle())
            }
            Given::Nothing if is_slab && !self.transfer.id().is_empty() => {
                self.context = Given::Whole(Err(reject));
                Ok(ControlFlow::Continue(()))
            }
            _ => {
                self.reply(reject.to_frame()).await?;
                let is_manifest = error.lost_kind() == Some(FrameKind::Manifest);
                Ok(if is_manifest { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            }
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
        let (incoming, ack, round) = begun.await??;
        self.context = Given::Slabs(incoming, round);
        let _ = self.settle();
        Ok(self.acknowledge(&ack))
    }

    async fn slab(&mut self, frame: Frame) -> Result<Vec<Frame>, Reject> {
        if let Given::Slabs(incoming, round) = &mut self.context {
            let (incoming, mut ours) = (Arc::clone(incoming), std::mem::take(round));
            let taken = blocking(move || {
                let answer = lock(&incoming).slab(&frame, &mut ours);
                (answer, ours)
            });
            let (answer, ours) = taken.await?;
            *round = ours;
            return Ok(self.replies(answer));
        }
        // The question will hear what is wrong with it.
        self.context = Given::Whole(match self.take_place() {
            Ok(()) => import(Arc::clone(&self.session.shared), frame).await,
            Err(reject) => Err(reject),
        });
        if matches!(self.context, Given::Whole(Err(_))) {
            self.place = None;
        }
        Ok(Vec::new())
    }

    fn replies(&self, answer: Answer) -> Vec<Frame> {
        let Answer { refusal, ack } = answer;
        let ack = ack.map(|ack| self.acknowledge(&ack));
        refusal.map(|reject| reject.to_frame()).into_iter().chain(ack).collect()
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

    /// Begins to answer a question, or has it wait for those before.
    fn question_in_turn(&mut self, frame: Frame) -> Result<(), Reject> {
        if self.answering.is_empty() {
            return self.question(&frame);
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(Reject::new(ErrorCode::Busy, format!("{MAX_WAITING} questions wait already")));
        }
        self.waiting.push_back(frame);
        Ok(())
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
            Given::Slabs(incoming, round) => {
                self.context = Given::Slabs(Arc::clone(&incoming), round);
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
    let shared = &session.shared;
    let options = request.options(shared.options.max_tokens);
    let turn = turn(shared, &behind).await?;
    let _counted = Counted::new(&session);
    let cancel = Cancel(Arc::new(AtomicBool::new(false)));
    let stop = Stop {
        dropped: Arc::clone(&cancel.0),
        gone: Arc::clone(&session.gone),
        patience: shared.options.transport.limits.frame_timeout,
    };
    let backend: Arc<dyn Backend> = Arc::clone(shared.agent.backend());
    let prompt = Prompt::User(prompt);
    let run = blocking(move || {
        // Held by the thread: it computes on for a moment when nobody waits any more.
        let _turn = turn;
        write(backend.as_ref(), &prompt, behind, &options, &stop)
    });
    let (generation, verification) = run.await??;
    (shared.on_served)(&Served {
        peer: session.peer_name.clone(),
        context_tokens: generation.context_tokens,
        prompt_tokens: generation.prompt_tokens,
        answer_tokens: generation.tokens.len(),
    });
    Ok(answer_frame(&session.id, shared.agent.name(), generation, verification))
}

/// Waits for a turn to compute. A question whose context is arriving has one of its own kind, so that a sender that
/// dawdles holds up such questions alone; where those are taken it waits for its context.
async fn turn(shared: &Shared, behind: &Behind) -> Result<OwnedSemaphorePermit, Reject> {
    if let Behind::Slabs(incoming) = behind {
        let is_whole = || lock(incoming).whole().is_some();
        if !is_whole() {
            if let Ok(turn) = Arc::clone(&shared.following).try_acquire_owned() {
                return Ok(turn);
            }
            while !is_whole() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
    Arc::clone(&shared.generations).acquire_owned().await.map_err(|_| internal())
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
                    let written = arriving.generate(backend, prompt, options, on_event, stop);
                    // What was computed with counts only if the whole was what its sender meant.
                    let whole = lock(&incoming).whole();
                    let missing = || Reject::new(ErrorCode::SlabsMissing, "the context stopped arriving");
                    whole.ok_or_else(missing)??;
                    return Ok((written.map_err(refused(true))?, Some(verification)));
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
pub(crate) struct Stop {
    dropped: Arc<AtomicBool>,
    gone: Arc<AtomicBool>,
    /// How long it waits for the next slab.
    pub(crate) patience: Duration,
}

impl Stop {
    pub(crate) fn is_set(&self) -> bool {
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
