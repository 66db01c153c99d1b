//! The answering side: one loaded model, many sessions, each on its own fork.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use avp_backend::{Backend, VerificationPolicy};
use avp_transport::{
    Listener, MetricsText, Options as TransportOptions, TransportError, TransportUrl, UrlError, listen,
};
use tokio::sync::Semaphore;

use crate::Agent;
use crate::accept::accept;
use crate::context_sink::ContextSink;
use crate::http;
use crate::incoming::Transfers;
use crate::kept::Kept;
use crate::places::{Places, Room};
use crate::session;

/// Bytes of a connection's memory for questions, beside contexts.
const TEXT_MEMORY: u64 = 32 << 20;

/// How an agent serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServeOptions {
    /// Deadlines, budgets and sizes of the connections.
    pub transport: TransportOptions,
    /// What to do with contexts whose checkpoint cannot be compared.
    pub policy: VerificationPolicy,
    /// Sessions of connections, and requests over HTTP that are being answered, at a time. Beyond them a session that
    /// does nothing makes room: the longest idle one of the peer that holds most for a peer that holds less, one that is
    /// idle for 5 seconds for any that holds no more. Where there is none a further peer is told that this agent is busy. Connections that
    /// have not negotiated do not count. 64.
    pub max_sessions: usize,
    /// Generations that compute at a time; further questions wait. As many more read a question while its context
    /// arrives. 4.
    pub max_generations: usize,
    /// Most tokens of one answer. 4096.
    pub max_tokens: usize,
    /// Contexts that one session may have here at a time. 4.
    pub max_contexts: usize,
    /// Contexts in slabs that are here at a time, arriving or kept for senders that come back; and as many that came
    /// over HTTP. Beyond them contexts make room as sessions do. 64.
    pub max_kept: usize,
    /// Bytes of the caches of either together. 4 GiB.
    pub max_kept_bytes: u64,
    /// For how long after their last slab or question. 2 minutes.
    pub keep: Duration,
    /// The text of `GET /metrics`, at HTTP addresses. None.
    pub metrics: Option<MetricsText>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            transport: TransportOptions::default(),
            policy: VerificationPolicy::default(),
            max_sessions: 64,
            max_generations: 4,
            max_tokens: 4096,
            max_contexts: 4,
            max_kept: 64,
            max_kept_bytes: 4 << 30,
            keep: Duration::from_secs(120),
            metrics: None,
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
    /// Tokens of the context it sent, or positions.
    pub context_tokens: usize,
    /// Tokens that had to be processed.
    pub prompt_tokens: usize,
    /// Tokens written.
    pub answer_tokens: usize,
    /// What was handed over, as its sender says: `none`, `kv`, `distribution`, `text`; empty where it says nothing.
    pub handover: String,
    /// Why it was text, or what the sender's quality gate says against it.
    pub why: Option<String>,
}

/// An agent that listens. [`Server::run`] serves until told otherwise.
pub struct Server {
    shared: Arc<Shared>,
    listener: Box<dyn Listener>,
}

/// What all sessions of a server share.
pub(crate) struct Shared {
    pub(crate) agent: Agent,
    pub(crate) options: ServeOptions,
    pub(crate) places: Places,
    pub(crate) generations: Arc<Semaphore>,
    /// Places for generations whose context is arriving.
    pub(crate) following: Arc<Semaphore>,
    pub(crate) transfers: Transfers<ContextSink>,
    /// Contexts that came over HTTP.
    pub(crate) kept: Kept,
    pub(crate) on_served: Box<dyn Fn(&Served) + Send + Sync>,
}

/// Listens at `url` for `agent`; `on_served` hears of each answered question. A connection takes no more memory than
/// the largest context of the agent's model needs. At an HTTP address requests are answered too, from now on.
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
    let places = Places::new(options.max_sessions);
    let turns = || Arc::new(Semaphore::new(options.max_generations));
    let (generations, following) = (turns(), turns());
    let limits = options.transport.limits.clone();
    let ServeOptions { max_kept, max_kept_bytes, max_contexts, keep, .. } = options;
    let room = Room { things: max_kept, bytes: max_kept_bytes };
    let transfers = Transfers::new(room, keep, limits);
    let kept = Kept::new(room, max_contexts, keep);
    let on_served = Box::new(on_served);
    let shared = Shared { agent, options, places, generations, following, transfers, kept, on_served };
    let shared = Arc::new(shared);
    let listener = match &url {
        TransportUrl::Http { .. } => http::listen(&url, &shared).await?,
        _ => listen(&url, &shared.options.transport).await?,
    };
    Ok(Server { shared, listener })
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
        let Self { shared, listener } = self;
        let sweep = || {
            shared.transfers.sweep();
            shared.kept.sweep();
        };
        let session = |connection| session::run(Arc::clone(&shared), connection);
        Ok(accept(listener.as_ref(), stop, sweep, session).await?)
    }
}
