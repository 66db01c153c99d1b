//! Runs the handshake of `avp-handshake` over a connection: real time, real randomness, credentials, and the limits
//! that hold while the peer is unknown.

use std::future::pending;
use std::time::Duration;

use avp_handshake::{Established, Event, HandshakeError, Negotiator, NegotiatorConfig, Reject, SessionId};
use avp_wire::{EncodeOptions, ErrorCode, Fault, Frame, ext};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use crate::auth::Token;
use crate::connection::Connection;
use crate::error::{Deadline, Incompatible, LimitExceeded, PeerFault, TransportError, UsageError};
use crate::link::{FrameReceiver, FrameSender, Result};
use crate::telemetry::{Meter, Side};

/// How long a refusal may take to reach the peer before the connection is dropped.
const PARTING: Duration = Duration::from_secs(1);

/// Says hello and waits for the answer. `config.peer` and `config.timeout` are set from the connection;
/// [`Options::token`](crate::Options::token) goes with the hello.
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
    let token = connection.options().token.clone();
    let meter = connection.meter().clone();
    meter.handshake(Side::Client, run(connection, negotiator, token)).await
}

/// Waits for the peer's hello and answers it. `config.peer` and `config.timeout` are set from the connection; the
/// session is named from the system's randomness. [`Options::authorize`](crate::Options::authorize) is asked first.
///
/// # Errors
/// As [`negotiate_client`], [`PeerFault::Unauthorized`], and [`LimitExceeded::HalfOpen`] where newer connections of the
/// same peer took the place of this one.
pub async fn negotiate_server(
    connection: &mut Connection,
    config: NegotiatorConfig,
) -> Result<Box<Established>> {
    let meter = connection.meter().clone();
    meter.handshake(Side::Server, serve_in_place(connection, config)).await
}

async fn serve_in_place(connection: &mut Connection, config: NegotiatorConfig) -> Result<Box<Established>> {
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
        // A peer whose hello is here is not dropped for one that has not spoken.
        biased;
        outcome = serve_or_say_why(connection, config) => outcome,
        limit = pushed_out => Err(LimitExceeded::HalfOpen { limit }.into()),
    }
}

/// A client of another protocol is told which one this is, in a frame: by its first bytes it knows.
async fn serve_or_say_why(connection: &mut Connection, config: NegotiatorConfig) -> Result<Box<Established>> {
    let outcome = serve(connection, config).await;
    if let Err(TransportError::Peer(PeerFault::NotAvp { .. })) = &outcome {
        let meter = connection.meter().clone();
        let (sender, receiver) = connection.halves();
        let reject = Reject::new(ErrorCode::BadMagic, "this port speaks AVP (avp+tcp://)");
        part(sender, receiver, std::iter::once(reject.to_frame()), &meter).await;
    }
    outcome
}

async fn serve(connection: &mut Connection, mut config: NegotiatorConfig) -> Result<Box<Established>> {
    let start = now();
    let asks = connection.options().authorize.is_some() && !connection.is_admitted();
    let first = if asks { admit(connection).await? } else { None };
    prepare(connection, &mut config);
    let id = SessionId::from_random(rand::random());
    let mut negotiator = Negotiator::server(config, id, start).map_err(UsageError::Configure)?;
    if let Some(incoming) = first {
        pass_on(&mut negotiator, incoming)?;
    }
    run(connection, negotiator, None).await
}

fn prepare(connection: &Connection, config: &mut NegotiatorConfig) {
    config.peer = connection.peer_id();
    config.timeout = connection.options().limits.handshake_timeout;
}

/// The clock of tokio, which tests can pause, as the negotiator takes it.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// What came instead of a frame, or the frame.
type Incoming = Result<Result<Option<Frame>>, Elapsed>;

/// Judges the peer by the head of its hello, which stays pending. Gives what came where that is no head.
async fn admit(connection: &mut Connection) -> Result<Option<Incoming>> {
    let options = connection.options().clone();
    let (_, receiver) = connection.halves();
    receiver.restrict(u64::from(options.limits.max_handshake_len));
    let token = match timeout(options.limits.handshake_timeout, receiver.head()).await {
        Ok(Ok(Some(head))) => head.metadata.extra.get(ext::TOKEN).cloned(),
        Ok(Ok(None)) => return Ok(Some(Ok(Ok(None)))),
        Ok(Err(error)) => return Ok(Some(Ok(Err(error)))),
        Err(elapsed) => return Ok(Some(Err(elapsed))),
    };
    let Some(rule) = options.authorize else { return Ok(None) };
    match rule.authorize(connection.peer(), token.as_deref()) {
        Ok(identity) => {
            connection.identify(identity);
            Ok(None)
        }
        Err(source) => {
            let peer = connection.peer().to_string();
            let meter = connection.meter().clone();
            let (sender, receiver) = connection.halves();
            // No word on what exactly is wrong: that helps none but those who guess.
            let reject = Reject::new(ErrorCode::Unauthorized, "credentials are missing or wrong");
            part(sender, receiver, std::iter::once(reject.to_frame()), &meter).await;
            Err(PeerFault::Unauthorized { peer, source }.into())
        }
    }
}

/// `token` goes with the first frame.
async fn run(
    connection: &mut Connection,
    mut negotiator: Negotiator,
    mut token: Option<Token>,
) -> Result<Box<Established>> {
    let peer = connection.peer().to_string();
    let meter = connection.meter().clone();
    let showed_token = token.is_some();
    let limit = connection.options().limits.max_handshake_len;
    let (sender, receiver) = connection.halves();
    receiver.restrict(u64::from(limit));
    let deadline = negotiator.poll_timeout().map_or_else(Instant::now, Instant::from_std);
    loop {
        while let Some(mut frame) = negotiator.poll_transmit() {
            if let Some(token) = token.take() {
                frame.metadata.extra.insert(ext::TOKEN.to_owned(), token.reveal().to_owned());
            }
            match timeout_at(deadline, transmit(sender, &frame, &meter)).await {
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
                part(sender, receiver, std::iter::from_fn(|| negotiator.poll_transmit()), &meter).await;
                return Err(failure(peer, error, showed_token));
            }
            None => {}
        }
        let incoming = timeout_at(deadline, receiver.recv()).await;
        pass_on(&mut negotiator, incoming)?;
    }
}

/// Hands the negotiator what came, or did not come in time.
fn pass_on(negotiator: &mut Negotiator, incoming: Incoming) -> Result<()> {
    match incoming {
        Ok(Ok(Some(frame))) => negotiator.handle_frame(frame, now()),
        Ok(Ok(None)) => negotiator.handle_closed(now()),
        Ok(Err(error)) => tell(negotiator, error)?,
        Err(_) => negotiator.handle_timeout(now()),
    }
    Ok(())
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

async fn transmit(sender: &mut dyn FrameSender, frame: &Frame, meter: &Meter) -> Result<()> {
    let encoded = frame.encode(&EncodeOptions::default()).map_err(UsageError::Encode)?;
    sender.send(encoded).await?;
    meter.said(frame);
    Ok(())
}

/// Tells the peer why, as well as that goes: closing at once would take the refusal back with the connection.
async fn part(
    sender: &mut dyn FrameSender,
    receiver: &mut dyn FrameReceiver,
    last_words: impl Iterator<Item = Frame> + Send,
    meter: &Meter,
) {
    let parting = async {
        for frame in last_words {
            transmit(sender, &frame, meter).await?;
        }
        sender.finish().await?;
        receiver.drain().await
    };
    if let Ok(Err(error)) = timeout(PARTING, parting).await {
        tracing::debug!(%error, "the peer left before it was told why it was refused");
    }
}

fn failure(peer: String, source: HandshakeError, showed_token: bool) -> TransportError {
    match source {
        HandshakeError::Rejected { code: Some(ErrorCode::Unauthorized), .. } => {
            Incompatible::TurnedAway { peer, showed_token }.into()
        }
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
