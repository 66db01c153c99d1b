//! One session of an agent that serves: each transfer in a lane of its own.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use avp_handshake::{NegotiatorConfig, Reject, without_device};
use avp_transport::{
    Connection, Deadline, LimitExceeded, Party, Peer, Transfer, Transfers, TransportError, negotiate_server,
};
use avp_wire::{EncodeOptions, ErrorCode};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::lane::Lane;
use crate::places::Place;
use crate::server::Shared;

/// How long a peer for whom there is no place may take to hear that.
const PARTING: Duration = Duration::from_secs(1);

/// What the lanes of a session share.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: String,
    pub(crate) peer_name: String,
    pub(crate) peer: Peer,
    /// Places for contexts.
    pub(crate) contexts: Arc<Semaphore>,
    /// Its place among the sessions.
    pub(crate) place: Arc<Place>,
    /// How often it was given the vocabulary.
    pub(crate) vocabularies: AtomicUsize,
}

/// Negotiates and serves until the peer ends its side.
pub(crate) async fn run(shared: Arc<Shared>, mut connection: Connection) -> Result<(), TransportError> {
    let mut hello = shared.agent.hello();
    if !connection.passes_descriptors() {
        without_device(&mut hello);
    }
    let mut config = NegotiatorConfig::new(hello, connection.peer_id());
    config.policy = shared.options.policy;
    let established = negotiate_server(&mut connection, config).await?;
    let Some(place) = shared.places.take(Party::from(connection.peer())) else {
        return turn_away(connection, shared.options.max_sessions).await;
    };
    let session = Arc::new(Session {
        id: established.session.id.as_str().to_owned(),
        peer_name: established.remote.agent_id.clone(),
        peer: connection.peer().clone(),
        contexts: Arc::new(Semaphore::new(shared.options.max_contexts)),
        place,
        vocabularies: AtomicUsize::new(0),
        shared,
    });
    let lane = |transfer| Lane::new(&session, transfer).run();
    serve_lanes(Transfers::over(connection), &session.place, lane).await
}

/// Runs a lane for each transfer until the peer ends its side, and then to their ends: slabs that have come are kept, and a
/// peer that asks no more still waits for its answers. All ends where the place goes to another peer.
pub(crate) async fn serve_lanes<L>(
    transfers: Transfers,
    place: &Place,
    lane: impl Fn(Transfer) -> L,
) -> Result<(), TransportError>
where
    L: Future<Output: Send + 'static> + Send + 'static,
{
    let mut lanes = JoinSet::new();
    let mut outcome = None;
    loop {
        tokio::select! {
            transfer = transfers.accept(), if outcome.is_none() => match transfer {
                Ok(Some(transfer)) => drop(lanes.spawn(lane(transfer))),
                Ok(None) => outcome = Some(Ok(())),
                Err(error) if can_go_on(place, &error) => {}
                Err(error) if is_idle(&error) => return Err(error),
                Err(error) => outcome = Some(Err(error)),
            },
            ended = lanes.join_next(), if !lanes.is_empty() => drop(ended),
            () = place.lost() => {
                tracing::debug!(peer = %transfers.peer(), "a session that did nothing made room for another peer's");
                return Ok(());
            }
        }
        if let Some(outcome) = outcome.take_if(|_| lanes.is_empty()) {
            outcome?;
            return transfers.finish().await;
        }
    }
}

/// Tells a peer that there is no place for it.
pub(crate) async fn turn_away(mut connection: Connection, most: usize) -> Result<(), TransportError> {
    let sessions = if most == 1 { "session" } else { "sessions" };
    let message = format!("this agent holds {most} {sessions}, its most; try again later");
    let reject = Reject::new(ErrorCode::Busy, message).to_frame();
    let parting = async {
        connection.send_frame(&reject, &EncodeOptions::default()).await?;
        connection.close().await
    };
    timeout(PARTING, parting).await.unwrap_or(Ok(()))
}

/// Whether an error of the connection leaves it usable: a peer that waits for its answer may be silent.
pub(crate) fn can_go_on(place: &Place, error: &TransportError) -> bool {
    match is_idle(error) {
        true => place.is_working(),
        false => error.is_recoverable(),
    }
}

pub(crate) fn is_idle(error: &TransportError) -> bool {
    matches!(error, TransportError::Limit(LimitExceeded::Deadline { which: Deadline::Idle, .. }))
}
