//! Receiving contexts into files: what `avp recv` does. No engine is needed, only what is known of the model.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use avp_backend::{ModelInfo, VerificationPolicy, check_context};
use avp_handshake::{NegotiatorConfig, Reject};
use avp_transport::{
    Connection, Listener, Options as TransportOptions, Transfer, Transfers, TransportError, TransportUrl,
    listen, negotiate_server,
};
use avp_wire::ext::FrameKind;
use avp_wire::slab::{Ack, Manifest, TransferId};
use avp_wire::{EncodeOptions, ErrorCode, Frame, Metadata};
use tokio::task::JoinSet;

use crate::agent::hello_of;
use crate::file::{FileSink, sink_refusal};
use crate::incoming::{self, lock};
use crate::server::ServeError;
use crate::session::{blocking, import_refusal, internal, is_idle};

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
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        let mut transport = TransportOptions::default();
        transport.limits.memory_budget = 64 << 20;
        Self { transport, policy: VerificationPolicy::default(), keep: Duration::from_secs(600) }
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
    /// A session has ended; its peer has heard what became of its contexts.
    Left,
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
    /// The transfer that a single file is for.
    only: OnceLock<(Option<String>, TransferId)>,
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
    let transfers = incoming::Transfers::new(1024, options.keep, options.transport.limits.clone());
    let (name, only, on) = (name.to_owned(), OnceLock::new(), Box::new(on));
    let shared = Shared { name, model, into, only, policy: options.policy, transfers, on };
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
        let mut sessions = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let connection = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted?,
                Some(_) = sessions.join_next() => continue,
            };
            let shared = Arc::clone(&self.shared);
            sessions.spawn(async move {
                let peer = connection.peer().to_string();
                if let Err(error) = session(shared, connection).await {
                    tracing::warn!(%peer, %error, "session ended");
                }
            });
        }
        sessions.shutdown().await;
        Ok(())
    }
}

async fn session(shared: Arc<Shared>, mut connection: Connection) -> Result<(), TransportError> {
    let mut config = NegotiatorConfig::new(hello_of(&shared.name, &shared.model), connection.peer_id());
    config.policy = shared.policy;
    let established = negotiate_server(&mut connection, config).await?;
    let sender = connection.peer().identity().map(str::to_owned);
    let transfers = Transfers::over(connection);
    let mut lanes = JoinSet::new();
    let mut outcome = loop {
        tokio::select! {
            lane = transfers.accept() => match lane {
                Ok(Some(transfer)) => {
                    let lane = Lane {
                        shared: Arc::clone(&shared),
                        session_id: established.session.id.as_str().to_owned(),
                        from: established.remote.agent_id.clone(),
                        sender: sender.clone(),
                        transfer,
                        incoming: None,
                    };
                    lanes.spawn(lane.run());
                }
                Ok(None) => break Ok(()),
                Err(error) if is_idle(&error) => return Err(error),
                Err(error) if error.is_recoverable() => {}
                Err(error) => break Err(error),
            },
            Some(_) = lanes.join_next() => {}
        }
    };
    // What has come is written, however the connection ended.
    while lanes.join_next().await.is_some() {}
    if outcome.is_ok() {
        outcome = transfers.finish().await;
    }
    (shared.on)(ReceiveEvent::Left);
    outcome
}

/// One transfer of a session.
struct Lane {
    shared: Arc<Shared>,
    session_id: String,
    from: String,
    sender: Option<String>,
    transfer: Transfer,
    incoming: Option<incoming::Shared<FileSink>>,
}

impl Lane {
    async fn run(mut self) -> Result<(), TransportError> {
        loop {
            let answer = match self.transfer.recv().await {
                Ok(Some(frame)) => self.take(frame).await,
                Ok(None) => return Ok(()),
                Err(error) if error.is_recoverable() && !is_idle(&error) => match &self.incoming {
                    Some(incoming) => lock(incoming).lost(),
                    None => Err(Reject::new(error.code(), error.to_string())),
                },
                Err(error) => return Err(error),
            };
            let is_over = !matches!(answer, Ok(None)) && self.is_over();
            let reply = match answer {
                Ok(None) => continue,
                Ok(Some(ack)) => self.acknowledge(&ack),
                Err(reject) => reject.to_frame(),
            };
            self.transfer.send(reply, &EncodeOptions::default()).await?;
            if is_over {
                return Ok(());
            }
        }
    }

    /// Whether nothing more is to come.
    fn is_over(&self) -> bool {
        self.incoming.as_ref().is_none_or(|incoming| lock(incoming).whole().is_some())
    }

    async fn take(&mut self, frame: Frame) -> Result<Option<Ack>, Reject> {
        if frame.metadata.session_id != self.session_id {
            return Err(Reject::new(ErrorCode::UnknownSession, "this connection has another session"));
        }
        match frame.kind().map_err(|e| Reject::new(e.code(), e.to_string()))? {
            Some(FrameKind::Manifest) => self.manifest(frame).await.map(Some),
            Some(FrameKind::Slab) if self.incoming.is_some() => self.slab(frame).await,
            Some(FrameKind::Text) => Err(Reject::new(
                ErrorCode::NoHandler,
                "contexts are received here, questions are not answered",
            )),
            _ => Err(Reject::new(ErrorCode::UnexpectedFrame, "expected a manifest, then its slabs")),
        }
    }

    async fn manifest(&mut self, frame: Frame) -> Result<Ack, Reject> {
        let (shared, sender) = (Arc::clone(&self.shared), self.sender.clone());
        let begun = blocking(move || {
            let known = sender.clone();
            shared
                .transfers
                .manifest(known, &frame, |manifest, id| shared.sink(sender, &frame.metadata, manifest, id))
        });
        let (incoming, ack) = begun.await??;
        self.incoming = Some(incoming);
        Ok(ack)
    }

    async fn slab(&mut self, frame: Frame) -> Result<Option<Ack>, Reject> {
        let Some(incoming) = self.incoming.clone() else { return Err(internal()) };
        let (shared, from) = (Arc::clone(&self.shared), self.from.clone());
        blocking(move || {
            let mut incoming = lock(&incoming);
            let was_whole = incoming.whole().is_some();
            let ack = incoming.slab(&frame)?;
            let (slabs, of, bytes) = incoming.progress();
            (shared.on)(ReceiveEvent::Progress { slabs, of, bytes });
            if let (false, Some(Ok(path))) = (was_whole, incoming.whole()) {
                (shared.on)(ReceiveEvent::Received { path, from });
            }
            Ok(ack)
        })
        .await?
    }

    fn acknowledge(&self, ack: &Ack) -> Frame {
        let metadata = Metadata {
            session_id: self.session_id.clone(),
            source_agent_id: self.shared.name.clone(),
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
    fn sink(
        &self,
        sender: Option<String>,
        described: &Metadata,
        manifest: &Manifest,
        id: &TransferId,
    ) -> Result<FileSink, Reject> {
        check_context(described, &manifest.kv, &self.model, self.policy)
            .map_err(|error| import_refusal(&error))?;
        let target = match &self.into {
            ReceiveInto::File(path) => {
                let key = (sender, id.clone());
                if *self.only.get_or_init(|| key.clone()) != key {
                    return Err(Reject::new(
                        ErrorCode::Busy,
                        "one context is received here, and it is another",
                    ));
                }
                path.clone()
            }
            ReceiveInto::Folder(folder) => folder.join(file_name(id)),
        };
        FileSink::begin(target, described, manifest, id).map_err(|error| sink_refusal(&error))
    }
}

/// No text of a peer becomes a path: the file is named by a hash of the transfer's id.
fn file_name(id: &TransferId) -> String {
    let hash = blake3::hash(id.as_str().as_bytes()).to_hex();
    format!("{}.avp", hash.as_str().get(..32).unwrap_or_default())
}
