//! Runs the handshake of `avp-handshake` over a connection: real time, real randomness, and the limits that hold
//! while the peer is unknown.

use std::future::pending;
use std::time::Duration;

use avp_handshake::{Established, Event, HandshakeError, Negotiator, NegotiatorConfig, SessionId};
use avp_wire::{EncodeOptions, Fault, Frame};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::Connection;
use crate::error::{Deadline, Incompatible, LimitExceeded, PeerFault, TransportError, UsageError};
use crate::link::{FrameReceiver, FrameSender, Result};

/// How long a refusal may take to reach the peer before the connection is dropped.
const PARTING: Duration = Duration::from_secs(1);

/// Says hello and waits for the answer. `config.peer` and `config.timeout` are set from the connection.
///
/// # Errors
/// The peer refused, cannot work with this side, broke the protocol, or did not answer within
/// `Limits::handshake_timeout` and `max_handshake_len`. The connection is of no further use then.
pub async fn negotiate_client(
    connection: &mut Connection,
    mut config: NegotiatorConfig,
) -> Result<Box<Established>> {
    prepare(connection, &mut config);
    let negotiator = Negotiator::client(config, now()).map_err(UsageError::Configure)?;
    run(connection, negotiator).await
}

/// Waits for the peer's hello and answers it. `config.peer` and `config.timeout` are set from the connection; the
/// session is named from the system's randomness.
///
/// # Errors
/// As [`negotiate_client`], and [`LimitExceeded::HalfOpen`] where newer connections of the same peer took the place
/// of this one.
pub async fn negotiate_server(
    connection: &mut Connection,
    mut config: NegotiatorConfig,
) -> Result<Box<Established>> {
    prepare(connection, &mut config);
    let id = SessionId::from_random(rand::random());
    let negotiator = Negotiator::server(config, id, now()).map_err(UsageError::Configure)?;
    // The place is given back when this returns, whatever the outcome.
    let place = connection.take_half_open();
    let pushed_out = async {
        match &place {
            Some(place) => {
                place.dropped().await;
                place.limit()
            }
            None => pending().await,
        }
    };
    tokio::select! {
        outcome = run(connection, negotiator) => outcome,
        limit = pushed_out => Err(LimitExceeded::HalfOpen { limit }.into()),
    }
}

fn prepare(connection: &Connection, config: &mut NegotiatorConfig) {
    config.peer = connection.peer_id();
    config.timeout = connection.options().limits.handshake_timeout;
}

/// The clock of tokio, which tests can pause, as the negotiator takes it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn run(connection: &mut Connection, mut negotiator: Negotiator) -> Result<Box<Established>> {
    let peer = connection.peer().to_string();
    let limit = connection.options().limits.max_handshake_len;
    let (sender, receiver) = connection.halves();
    receiver.restrict(u64::from(limit));
    let deadline = negotiator.poll_timeout().map_or_else(Instant::now, Instant::from_std);
    loop {
        while let Some(frame) = negotiator.poll_transmit() {
            match timeout_at(deadline, transmit(sender, &frame)).await {
                Ok(sent) => sent?,
                Err(_) => negotiator.handle_timeout(now()),
            }
        }
        match negotiator.poll() {
            Some(Event::Established(established)) => {
                receiver.unrestrict();
                return Ok(established);
            }
            Some(Event::Failed(error)) => {
                part(sender, receiver, &mut negotiator).await;
                return Err(failure(peer, error));
            }
            None => {}
        }
        match timeout_at(deadline, receiver.recv()).await {
            Ok(Ok(Some(frame))) => negotiator.handle_frame(frame, now()),
            Ok(Ok(None)) => negotiator.handle_closed(now()),
            Ok(Err(error)) => tell(&mut negotiator, error)?,
            Err(_) => negotiator.handle_timeout(now()),
        }
    }
}

/// Passes on what the negotiator has an answer for; anything else ends the handshake here.
fn tell(negotiator: &mut Negotiator, error: TransportError) -> Result<()> {
    match error {
        TransportError::Peer(
            PeerFault::MalformedHead { source, .. } | PeerFault::DamagedFrame { source, .. },
        )
        | TransportError::Limit(
            LimitExceeded::Frame { source, .. } | LimitExceeded::Unpacked { source, .. },
        ) => {
            negotiator.handle_decode_error(source, now());
        }
        TransportError::Limit(LimitExceeded::HandshakeBytes { got, limit }) => {
            let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
            negotiator.handle_too_large(size(limit), size(got), now());
        }
        other => return Err(other),
    }
    Ok(())
}

async fn transmit(sender: &mut dyn FrameSender, frame: &Frame) -> Result<()> {
    let encoded = frame.encode(&EncodeOptions::default()).map_err(UsageError::Encode)?;
    sender.send(encoded).await
}

/// Tells the peer why, as well as that goes: closing at once would take the refusal back with the connection.
async fn part(sender: &mut dyn FrameSender, receiver: &mut dyn FrameReceiver, negotiator: &mut Negotiator) {
    let parting = async {
        while let Some(frame) = negotiator.poll_transmit() {
            transmit(sender, &frame).await?;
        }
        sender.finish().await?;
        receiver.drain().await
    };
    if let Ok(Err(error)) = timeout(PARTING, parting).await {
        tracing::debug!(%error, "the peer left before it was told why it was refused");
    }
}

fn failure(peer: String, source: HandshakeError) -> TransportError {
    match source {
        HandshakeError::Timeout { seconds } => {
            let (which, after) = (Deadline::Handshake, Duration::from_secs(seconds));
            LimitExceeded::Deadline { peer, which, after, got: 0, expected: 0 }.into()
        }
        HandshakeError::TooLarge { limit, actual } => {
            let count = |bytes| u64::try_from(bytes).unwrap_or(u64::MAX);
            LimitExceeded::HandshakeBytes { got: count(actual), limit: count(limit) }.into()
        }
        HandshakeError::Closed => PeerFault::ClosedInHandshake { peer }.into(),
        source if source.fault() == Fault::Peer => PeerFault::Handshake { peer, source }.into(),
        source => Incompatible::Handshake { peer, source }.into(),
    }
}
