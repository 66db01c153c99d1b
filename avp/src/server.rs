//! The answering side: one loaded model, many sessions, each on its own fork.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use avp_backend::{
    Backend, Context, ContextError, GenerateError, GenerateOptions, Generation, Prompt, VerificationPolicy,
    generate,
};
use avp_handshake::{NegotiatorConfig, Reject, TextMessage};
use avp_transport::{
    Connection, LimitExceeded, Listener, Options as TransportOptions, TransportError, TransportUrl, UrlError,
    listen, negotiate_server,
};
use avp_wire::ext::{self, FrameKind};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Mode, PayloadType};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Agent;
use crate::choice::is_incompatible;
use crate::exchange::{answer_frame, request_of};

/// Bytes of a connection's memory for questions, beside contexts.
const TEXT_MEMORY: u64 = 32 << 20;
/// How long a peer for whom there is no place may take to hear that.
const PARTING: Duration = Duration::from_secs(1);

/// How an agent serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Deadlines, budgets and sizes of the connections.
    pub transport: TransportOptions,
    /// What to do with contexts whose checkpoint cannot be compared.
    pub policy: VerificationPolicy,
    /// Sessions at a time; further peers are told that this agent is busy. Connections that have not negotiated do
    /// not count. 64.
    pub max_sessions: usize,
    /// Generations that compute at a time; further questions wait. 4.
    pub max_generations: usize,
    /// Most tokens of one answer. 4096.
    pub max_tokens: usize,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            transport: TransportOptions::default(),
            policy: VerificationPolicy::default(),
            max_sessions: 64,
            max_generations: 4,
            max_tokens: 4096,
        }
    }
}

/// Why an agent cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is not one.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The address cannot be listened at, or listening failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

/// One answered question, as a server reports it; never the text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// Who asked: the agent's own name for itself.
    pub peer: String,
    /// Tokens of the context it sent.
    pub context_tokens: usize,
    /// Tokens that had to be processed.
    pub prompt_tokens: usize,
    /// Tokens written.
    pub answer_tokens: usize,
}

/// An agent that listens. [`Server::run`] serves until told otherwise.
pub struct Server {
    shared: Arc<Shared>,
    listener: Box<dyn Listener>,
}

struct Shared {
    agent: Agent,
    options: ServeOptions,
    sessions: Semaphore,
    generations: Semaphore,
    on_served: Box<dyn Fn(&Served) + Send + Sync>,
}

/// Listens at `url` for `agent`; `on_served` hears of each answered question. A connection takes no more memory than
/// the largest context of the agent's model needs.
///
/// # Errors
/// [`ServeError`] if the address is not one or cannot be listened at.
pub async fn serve(
    agent: Agent,
    url: &str,
    mut options: ServeOptions,
    on_served: impl Fn(&Served) + Send + Sync + 'static,
) -> Result<Server, ServeError> {
    let url: TransportUrl = url.parse()?;
    let budget = &mut options.transport.limits.memory_budget;
    *budget = (*budget).min(frame_memory(agent.backend().as_ref()));
    let listener = listen(&url, &options.transport).await?;
    let sessions = Semaphore::new(options.max_sessions);
    let generations = Semaphore::new(options.max_generations);
    let shared = Shared { agent, options, sessions, generations, on_served: Box::new(on_served) };
    Ok(Server { shared: Arc::new(shared), listener })
}

/// Bytes that a peer's frames may need: a context of the whole window in f32, as sent and unpacked, and text.
fn frame_memory(backend: &dyn Backend) -> u64 {
    let info = backend.info();
    let id = &info.identity;
    let window = u64::try_from(info.max_positions).unwrap_or(u64::MAX);
    let planes = [id.num_layers, id.num_kv_heads, id.head_dim].map(u64::from);
    let context = planes.into_iter().fold(window.saturating_mul(2 * 4), u64::saturating_mul);
    context.saturating_mul(2).saturating_add(TEXT_MEMORY)
}

impl Server {
    /// Where it listens, with the port that was taken.
    #[must_use]
    pub fn url(&self) -> &TransportUrl {
        self.listener.local_url()
    }

    /// Serves until `stop` is ready; then open sessions end too.
    ///
    /// # Errors
    /// [`ServeError`] if the listener fails. A failing session only ends itself.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let mut sessions = JoinSet::new();
        tokio::pin!(stop);
        loop {
            // Never kept waiting by the sessions: only what is accepted makes room among half-open connections.
            let connection = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted?,
                Some(_) = sessions.join_next() => continue,
            };
            let shared = Arc::clone(&self.shared);
            sessions.spawn(async move {
                let peer = connection.peer().to_string();
                if let Err(error) = Session::run(shared, connection).await {
                    tracing::warn!(%peer, %error, "session ended");
                }
            });
        }
        sessions.shutdown().await;
        Ok(())
    }
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

struct Session {
    shared: Arc<Shared>,
    connection: Connection,
    id: String,
    peer_name: String,
    /// The context of the transfer that the next question may name.
    pending: Option<(String, Result<Context, Reject>)>,
}

impl Session {
    async fn run(shared: Arc<Shared>, mut connection: Connection) -> Result<(), TransportError> {
        let mut config = NegotiatorConfig::new(shared.agent.hello(), connection.peer_id());
        config.policy = shared.options.policy;
        let established = negotiate_server(&mut connection, config).await?;
        let places = Arc::clone(&shared);
        let Ok(_place) = places.sessions.try_acquire() else {
            return turn_away(connection, shared.options.max_sessions).await;
        };
        let id = established.session.id.as_str().to_owned();
        let peer_name = established.remote.agent_id.clone();
        let mut session = Self { shared, connection, id, peer_name, pending: None };
        while let Some(frame) = session.receive().await? {
            let reply = match session.handle(frame).await {
                Ok(None) => continue,
                Ok(Some(reply)) => reply,
                Err(reject) => reject.to_frame(),
            };
            session.reply(&reply).await?;
        }
        session.connection.close().await?;
        Ok(())
    }

    /// The next frame that is whole. A damaged or too large question is refused and skipped; for a context like that
    /// the question that names it is.
    async fn receive(&mut self) -> Result<Option<Frame>, TransportError> {
        loop {
            let Some(head) = self.connection.head().await? else { return Ok(None) };
            let is_context = head.metadata.payload_type == PayloadType::KvCache;
            let transfer = head.metadata.extra.get(ext::TRANSFER).filter(|_| is_context).cloned();
            let error = match self.connection.payload().await {
                Err(error) if error.is_recoverable() => error,
                other => return other.map(Some),
            };
            if let TransportError::Limit(LimitExceeded::Memory { .. }) = error {
                self.connection.refuse().await?;
            }
            let reject = Reject::new(error.code(), error.to_string());
            match transfer {
                Some(transfer) => self.pending = Some((transfer, Err(reject))),
                None => self.reply(&reject.to_frame()).await?,
            }
        }
    }

    async fn reply(&mut self, frame: &Frame) -> Result<(), TransportError> {
        self.connection.send_frame(frame, &EncodeOptions::default()).await.map(drop)
    }

    /// The reply to a frame; a context gets none, its question will.
    async fn handle(&mut self, frame: Frame) -> Result<Option<Frame>, Reject> {
        if frame.metadata.session_id != self.id {
            return Err(Reject::new(ErrorCode::UnknownSession, "this connection has another session"));
        }
        let kind = frame.kind().map_err(|e| Reject::new(e.code(), e.to_string()))?;
        match kind {
            Some(FrameKind::Text) if frame.metadata.mode == Mode::Json => {
                self.question(&frame).await.map(Some)
            }
            Some(FrameKind::Slab) if frame.metadata.payload_type == PayloadType::KvCache => {
                let transfer = frame.metadata.extra.get(ext::TRANSFER).cloned().unwrap_or_default();
                self.pending = Some((transfer, import(Arc::clone(&self.shared), frame).await));
                Ok(None)
            }
            _ => {
                Err(Reject::new(ErrorCode::UnexpectedFrame, "expected a context (slab) or a question (text)"))
            }
        }
    }

    async fn question(&mut self, frame: &Frame) -> Result<Frame, Reject> {
        let message = TextMessage::from_json(&frame.payload)
            .map_err(|error| Reject::new(ErrorCode::InvalidArgument, error.to_string()))?;
        let request = request_of(&message)
            .ok_or_else(|| Reject::new(ErrorCode::InvalidArgument, "extra.generate has a wrong type"))?;
        let context = match frame.metadata.extra.get(ext::TRANSFER) {
            None => None,
            Some(id) => match self.pending.take_if(|(pending, _)| pending == id) {
                Some((_, context)) => Some(context?),
                None => {
                    return Err(Reject::new(ErrorCode::SlabsMissing, "no context came for this transfer"));
                }
            },
        };
        let verification = context.as_ref().map(Context::verification);
        let options = request.options(self.shared.options.max_tokens);
        let generation = self.answer(message.content, context, options).await?;
        (self.shared.on_served)(&Served {
            peer: self.peer_name.clone(),
            context_tokens: generation.context_tokens,
            prompt_tokens: generation.prompt_tokens,
            answer_tokens: generation.tokens.len(),
        });
        Ok(answer_frame(&self.id, self.shared.agent.name(), generation, verification))
    }

    /// Generates on a blocking thread, and stops computing when the peer goes away.
    async fn answer(
        &mut self,
        prompt: String,
        context: Option<Context>,
        options: GenerateOptions,
    ) -> Result<Generation, Reject> {
        let shared = Arc::clone(&self.shared);
        let has_context = context.is_some();
        let _turn = shared.generations.acquire().await.map_err(|_| internal())?;
        let gone = Cancel(Arc::new(AtomicBool::new(false)));
        let flag = Arc::clone(&gone.0);
        let backend: Arc<dyn Backend> = Arc::clone(shared.agent.backend());
        let run = blocking(move || {
            generate(backend.as_ref(), &Prompt::User(prompt), context.as_ref(), &options, &mut |_| {
                if flag.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        tokio::pin!(run);
        let result = tokio::select! {
            result = &mut run => result?,
            // A further question waits its turn; only the end of the connection is news.
            _ = closed(&mut self.connection) => {
                gone.0.store(true, Ordering::Relaxed);
                run.await?
            }
        };
        result.map_err(|error| Reject::new(generate_code(&error, has_context), error.to_string()))
    }
}

async fn import(shared: Arc<Shared>, frame: Frame) -> Result<Context, Reject> {
    let run = move || Context::from_frame(&frame, shared.agent.backend().as_ref(), shared.options.policy);
    blocking(run).await?.map_err(|error| Reject::new(import_code(&error), error.to_string()))
}

/// Ends a generation whose session is dropped.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Ready when the peer has ended its side or the connection broke. A peer that waits for its answer may be silent.
async fn closed(connection: &mut Connection) {
    loop {
        match connection.head().await {
            Ok(None) => return,
            Ok(Some(_)) => std::future::pending::<()>().await,
            Err(error) if error.is_recoverable() => {}
            Err(_) => return,
        }
    }
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, Reject> {
    tokio::task::spawn_blocking(run).await.map_err(|_| internal())
}

fn internal() -> Reject {
    Reject::new(ErrorCode::Internal, "the engine's thread ended without a result")
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
