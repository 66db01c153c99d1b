//! Receiving contexts into files: what `avp recv` does. No engine is needed, only what is known of the model.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use avp_backend::{ModelInfo, VerificationPolicy, check_context};
use avp_handshake::{NegotiatorConfig, Reject};
use avp_transport::{
    Connection, Listener, Options as TransportOptions, Party, Peer, Transfer, Transfers, TransportError,
    TransportUrl, listen, negotiate_server,
};
use avp_wire::ext::FrameKind;
use avp_wire::slab::{Ack, Manifest, Round, TransferId};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata};

use crate::accept::accept;
use crate::agent::hello_of;
use crate::answering::{blocking, import_refusal, internal};
use crate::file::FileSink;
use crate::incoming::{self, Answer, Key};
use crate::places::{Place, Places, Room};
use crate::server::ServeError;
use crate::session::{is_idle, serve_lanes, turn_away};

/// Where received contexts go.
#[derive(Clone, Debug)]
pub enum ReceiveInto {
    /// One context, to this file.
    File(PathBuf),
    /// Each to a file of its own in this folder, named by its transfer.
    Folder(PathBuf),
}

/// How contexts are received.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReceiveOptions {
    /// Deadlines, budgets and sizes of the connections. The memory budget of a connection is its window: what is under
    /// way and not yet written.
    pub transport: TransportOptions,
    /// What to do with contexts whose checkpoint cannot be compared.
    pub policy: VerificationPolicy,
    /// For how long a transfer whose connection broke is kept. 10 minutes.
    pub keep: Duration,
    /// Sessions at a time. They make room as those of [`ServeOptions::max_sessions`](crate::ServeOptions::max_sessions) do. 64.
    pub max_sessions: usize,
    /// Transfers at a time, arriving or kept for senders that come back. 64.
    pub max_kept: usize,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        let mut transport = TransportOptions::default();
        transport.limits.memory_budget = 64 << 20;
        Self {
            transport,
            policy: VerificationPolicy::default(),
            keep: Duration::from_secs(600),
            max_sessions: 64,
            max_kept: 64,
        }
    }
}

/// What happens at a receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiveEvent {
    /// A slab was written.
    Progress {
        /// Slabs that are there.
        slabs: u32,
        /// Slabs of the context.
        of: u32,
        /// Bytes of its cache, all slabs together.
        bytes: u64,
    },
    /// A context is whole.
    Received {
        /// Its file.
        path: PathBuf,
        /// Who sent it: the agent's own name for itself.
        from: String,
    },
    /// A session has ended.
    Left {
        /// Whether its peer was told that a context is whole.
        delivered: bool,
    },
}

/// A listener that takes contexts of one model.
pub struct Receiver {
    shared: Arc<Shared>,
    listener: Box<dyn Listener>,
}

struct Shared {
    name: String,
    model: ModelInfo,
    into: ReceiveInto,
    /// The transfer that a single file is of: the first that was whole.
    only: Arc<OnceLock<Key>>,
    places: Places,
    max_sessions: usize,
    policy: VerificationPolicy,
    transfers: incoming::Transfers<FileSink>,
    on: Box<dyn Fn(ReceiveEvent) + Send + Sync>,
}

/// Listens at `url` for contexts of `model`; `on` hears what comes.
///
/// # Errors
/// [`ServeError`] if the address is not one or cannot be listened at.
pub async fn receive(
    name: &str,
    model: ModelInfo,
    url: &str,
    into: ReceiveInto,
    options: ReceiveOptions,
    on: impl Fn(ReceiveEvent) + Send + Sync + 'static,
) -> Result<Receiver, ServeError> {
    let url: TransportUrl = url.parse()?;
    let listener = listen(&url, &options.transport).await?;
    let ReceiveOptions { transport, policy, keep, max_sessions, max_kept } = options;
    let shared = Shared {
        name: name.to_owned(),
        model,
        into,
        only: Arc::default(),
        places: Places::new(max_sessions),
        max_sessions,
        policy,
        transfers: incoming::Transfers::new(
            Room { things: max_kept, bytes: u64::MAX },
            keep,
            transport.limits,
        ),
        on: Box::new(on),
    };
    Ok(Receiver { shared: Arc::new(shared), listener })
}

impl Receiver {
    /// Where it listens, with the port that was taken.
    #[must_use]
    pub fn url(&self) -> &TransportUrl {
        self.listener.local_url()
    }

    /// Receives until `stop` is ready.
    ///
    /// # Errors
    /// [`ServeError`] if the listener fails. A failing session only ends itself.
    pub async fn run(self, stop: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let Self { shared, listener } = self;
        let sweep = || shared.transfers.sweep();
        let session = |connection| session(Arc::clone(&shared), connection);
        Ok(accept(listener.as_ref(), stop, sweep, session).await?)
    }
}

async fn session(shared: Arc<Shared>, mut connection: Connection) -> Result<(), TransportError> {
    let mut config = NegotiatorConfig::new(hello_of(&shared.name, &shared.model), connection.peer_id());
    config.policy = shared.policy;
    let established = negotiate_server(&mut connection, config).await?;
    let Some(place) = shared.places.take(Party::from(connection.peer())) else {
        return turn_away(connection, shared.max_sessions).await;
    };
    let session = Arc::new(Session {
        id: established.session.id.as_str().to_owned(),
        from: established.remote.agent_id.clone(),
        peer: connection.peer().clone(),
        delivered: AtomicBool::new(false),
        place,
        shared: Arc::clone(&shared),
    });
    let lane = |transfer| Lane { session: Arc::clone(&session), transfer, incoming: None }.run();
    let outcome = serve_lanes(Transfers::over(connection), &session.place, lane).await;
    (shared.on)(ReceiveEvent::Left { delivered: session.delivered.load(Ordering::Relaxed) });
    outcome
}

struct Session {
    shared: Arc<Shared>,
    id: String,
    /// The peer's own name for itself.
    from: String,
    peer: Peer,
    delivered: AtomicBool,
    place: Arc<Place>,
}

/// One transfer of a session.
struct Lane {
    session: Arc<Session>,
    transfer: Transfer,
    incoming: Option<(incoming::Shared<FileSink>, Round)>,
}

/// What to say, and whether nothing more is to come.
type Reply = (Answer, bool);

impl Lane {
    async fn run(mut self) -> Result<(), TransportError> {
        loop {
            let reply = match self.transfer.recv().await {
                Ok(Some(frame)) => self.take(frame).await,
                Ok(None) => return Ok(()),
                Err(error) if error.is_recoverable() && !is_idle(&error) => self.lost(&error).await,
                Err(error) => return Err(error),
            };
            let (Answer { refusal, ack, .. }, is_over) =
                reply.unwrap_or_else(|reject| (Answer { refusal: Some(reject), ..Answer::default() }, true));
            if let Some(reject) = refusal {
                self.send(reject.to_frame()).await?;
            }
            if let Some(ack) = ack {
                self.send(self.acknowledge(&ack)).await?;
                self.session.delivered.fetch_or(ack.is_complete(), Ordering::Relaxed);
            }
            if is_over {
                return Ok(());
            }
        }
    }

    async fn send(&self, frame: Frame) -> Result<(), TransportError> {
        self.transfer.send(frame, &EncodeOptions::default()).await
    }

    /// A refusal ends the lane.
    async fn take(&mut self, frame: Frame) -> Result<Reply, Reject> {
        let session = Arc::clone(&self.session);
        let _working = session.place.work();
        if frame.metadata.session_id != self.session.id {
            return Err(Reject::new(ErrorCode::UnknownSession, "this connection has another session"));
        }
        match frame.kind().map_err(|e| Reject::new(e.code(), e.to_string()))? {
            Some(FrameKind::Manifest) => self.manifest(frame).await,
            Some(FrameKind::Slab) if self.incoming.is_some() => self.slab(frame).await,
            Some(FrameKind::Text) => Err(Reject::new(
                ErrorCode::NoHandler,
                "contexts are received here, questions are not answered",
            )),
            _ => Err(Reject::new(ErrorCode::UnexpectedFrame, "expected a manifest, then its slabs")),
        }
    }

    async fn manifest(&mut self, frame: Frame) -> Result<Reply, Reject> {
        let session = Arc::clone(&self.session);
        let begun = blocking(move || {
            let shared = &session.shared;
            shared.transfers.manifest(&session.peer, &frame, |manifest, key| {
                shared.sink(key.clone(), &frame.metadata, manifest)
            })
        });
        let (incoming, ack, round) = begun.await??;
        self.incoming = Some((incoming, round));
        let is_over = ack.is_complete();
        Ok((Answer { ack: Some(ack), ..Answer::default() }, is_over))
    }

    async fn slab(&mut self, frame: Frame) -> Result<Reply, Reject> {
        let Some((incoming, mut round)) = self.incoming.take() else { return Err(internal()) };
        let session = Arc::clone(&self.session);
        let taken = blocking(move || {
            let answer = incoming.slab(&frame, &mut round);
            let (slabs, of, bytes) = incoming.progress();
            (session.shared.on)(ReceiveEvent::Progress { slabs, of, bytes });
            let whole = incoming.whole();
            let is_over = whole.is_some();
            if let (true, Some(Ok(path))) = (answer.completed, whole) {
                (session.shared.on)(ReceiveEvent::Received { path, from: session.from.clone() });
            }
            ((answer, is_over), incoming, round)
        });
        let (reply, incoming, round) = taken.await?;
        self.incoming = Some((incoming, round));
        Ok(reply)
    }

    /// A frame that could not be read: of slabs it is asked for again.
    async fn lost(&mut self, error: &TransportError) -> Result<Reply, Reject> {
        let is_slab = matches!(error.lost_kind(), Some(FrameKind::Slab) | None);
        let Some((incoming, mut round)) = self.incoming.take().filter(|_| is_slab) else {
            return Err(Reject::new(error.code(), error.to_string()));
        };
        let counted = blocking(move || {
            let answer = incoming.lost(&mut round);
            (answer, incoming, round)
        });
        let (answer, incoming, round) = counted.await?;
        self.incoming = Some((incoming, round));
        Ok((answer, false))
    }

    fn acknowledge(&self, ack: &Ack) -> Frame {
        let metadata = Metadata {
            session_id: self.session.id.clone(),
            source_agent_id: self.session.shared.name.clone(),
            ..Metadata::default()
        };
        match self.transfer.id().parse::<TransferId>() {
            Ok(id) => ack.to_frame(metadata, &id),
            // A manifest without a sound id was refused.
            Err(_) => internal().to_frame(),
        }
    }
}

impl Shared {
    /// The file of a new transfer, if its context is one of the model's.
    fn sink(&self, key: Key, described: &Metadata, manifest: &Manifest) -> Result<FileSink, Reject> {
        check_context(described, &manifest.kv, &self.model, self.policy)
            .map_err(|error| import_refusal(&error))?;
        let (target, only) = match &self.into {
            ReceiveInto::File(path) => (path.clone(), Some(Arc::clone(&self.only))),
            ReceiveInto::Folder(folder) => (folder.join(file_name(&key)), None),
        };
        if only.as_ref().and_then(|only| only.get()).is_some_and(|taken| *taken != key) {
            return Err(FileSink::taken());
        }
        Ok(FileSink::new(target, described, manifest, key, only))
    }
}

/// No text of a peer becomes a path: the file is named by a hash of the transfer's id and of who sends it.
fn file_name((sender, id): &Key) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(id.as_str().as_bytes())
        .update(b"\n")
        .update(sender.as_deref().unwrap_or_default().as_bytes());
    format!("{}.avp", hasher.finalize().to_hex().as_str().get(..32).unwrap_or_default())
}
