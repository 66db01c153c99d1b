//! Answering a question behind what was computed before: whoever asks, and however the context came.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use avp_backend::{
    Backend, Context, ContextError, GenerateError, GenerateEvent, GenerateOptions, Generation, Prompt,
    Verification, generate,
};
use avp_handshake::Reject;
use avp_wire::{ErrorCode, Frame};
use tokio::sync::OwnedSemaphorePermit;

use crate::choice::is_incompatible;
use crate::context_sink::ContextSink;
use crate::cross_model::Incoming;
use crate::exchange::{GenerateRequest, Said};
use crate::incoming;
use crate::server::{Served, Shared};

/// How often a question whose turn is not to come before its context looks whether that is there.
const LOOK: Duration = Duration::from_millis(20);

/// What is asked.
pub(crate) struct Question {
    pub(crate) prompt: String,
    pub(crate) behind: Behind,
    pub(crate) request: GenerateRequest,
    /// What its sender says of what it handed over.
    pub(crate) said: Said,
}

/// What a question builds on.
pub(crate) enum Behind {
    Nothing,
    Context(Context),
    Slabs(incoming::Shared<ContextSink>),
    Distributions(Incoming),
}

/// What was written, and what is known of the context behind it.
pub(crate) type Written = (Generation, Option<Verification>);

/// Answers `question` of `peer` in its turn. Dropping the future ends the generation.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    peer: &str,
    question: Question,
    turn: OwnedSemaphorePermit,
) -> Result<Written, Reject> {
    let Question { prompt, behind, request, said } = question;
    let options = request.options(shared.options.max_tokens);
    let cancel = Cancel(Arc::new(AtomicBool::new(false)));
    let stop =
        Stop { dropped: Arc::clone(&cancel.0), patience: shared.options.transport.limits.frame_timeout };
    let backend: Arc<dyn Backend> = Arc::clone(shared.agent.backend());
    let run = blocking(move || {
        // Held by the thread: it computes on for a moment when nobody waits any more.
        let _turn = turn;
        write(backend.as_ref(), &Prompt::User(prompt), behind, &options, &stop)
    });
    let (generation, verification) = run.await??;
    (shared.on_served)(&Served {
        peer: peer.to_owned(),
        context_tokens: generation.context_tokens,
        prompt_tokens: generation.prompt_tokens,
        answer_tokens: generation.tokens.len(),
        handover: said.mode,
        why: said.why,
    });
    Ok((generation, verification))
}

/// Waits for a turn to compute. A question whose context is arriving has one of its own kind, so that a sender that
/// dawdles holds up such questions alone; where those are taken it waits for its context. `work` begins when nothing is
/// waited for but the turn.
pub(crate) async fn turn<W>(
    shared: &Shared,
    behind: &Behind,
    work: impl FnOnce() -> W,
) -> Result<(OwnedSemaphorePermit, W), Reject> {
    if let Behind::Slabs(incoming) = behind {
        let is_whole = || incoming.whole_now().is_some();
        if !is_whole() {
            if let Ok(turn) = Arc::clone(&shared.following).try_acquire_owned() {
                return Ok((turn, work()));
            }
            while !is_whole() {
                tokio::time::sleep(LOOK).await;
            }
        }
    }
    let work = work();
    let turn = Arc::clone(&shared.generations).acquire_owned().await.map_err(|_| internal())?;
    Ok((turn, work))
}

/// Generates behind a context, which may still be arriving.
fn write(
    backend: &dyn Backend,
    prompt: &Prompt,
    behind: Behind,
    options: &GenerateOptions,
    stop: &Stop,
) -> Result<Written, Reject> {
    let on_event = &mut |_: GenerateEvent<'_>| stop.flow();
    let refused = |has_context| {
        move |error: GenerateError| Reject::new(generate_code(&error, has_context), error.to_string())
    };
    let context = match behind {
        Behind::Nothing => None,
        Behind::Context(context) => Some(context),
        Behind::Distributions(came) => {
            let context = came.into_context(backend)?;
            let written = generate(backend, prompt, Some(&context), options, on_event);
            return Ok((written.map_err(refused(true))?, None));
        }
        Behind::Slabs(incoming) => match incoming.whole_or(ContextSink::follow) {
            Ok(context) => Some(context?),
            Err(arriving) => {
                let arriving = arriving?;
                let verification = arriving.verification();
                let written = arriving.generate(backend, prompt, options, on_event, stop);
                // What was computed with counts only if the whole was what its sender meant.
                let missing = || Reject::new(ErrorCode::SlabsMissing, "the context stopped arriving");
                incoming.whole().ok_or_else(missing)??;
                return Ok((written.map_err(refused(true))?, Some(verification)));
            }
        },
    };
    let generation = generate(backend, prompt, context.as_ref(), options, on_event);
    let generation = generation.map_err(refused(context.is_some()))?;
    Ok((generation, context.as_ref().map(Context::verification)))
}

/// Takes the context of a frame into the model.
pub(crate) async fn import(shared: Arc<Shared>, frame: Frame) -> Result<Context, Reject> {
    let run = move || Context::from_frame(&frame, shared.agent.backend().as_ref(), shared.options.policy);
    blocking(run).await?.map_err(|error| import_refusal(&error))
}

/// Ends a generation whose answer nobody waits for.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// When a generation is of no use to anybody.
pub(crate) struct Stop {
    dropped: Arc<AtomicBool>,
    /// How long it waits for the next slab.
    pub(crate) patience: Duration,
}

impl Stop {
    pub(crate) fn is_set(&self) -> bool {
        self.dropped.load(Ordering::Relaxed)
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
