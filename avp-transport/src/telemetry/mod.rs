//! What an operator sees of the transports: metrics through the `metrics` facade, spans and events through `tracing`
//! (docs/observing.md has the tables). Labels have few values, all of them this side's own; nothing here takes a payload,
//! a text or a token.
//!
//! Handles of counters are made once per connection, so a recorder sees the connections that came after it.

mod meter;
mod transfer;

use std::time::Duration;

use avp_handshake::Reject;
use avp_wire::{ErrorCode, Frame, Mode};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};

use crate::error::{Incompatible, LimitExceeded, PeerFault, TransportError};
use crate::link::Result;
use crate::url::Scheme;
pub(crate) use meter::Meter;
pub(crate) use transfer::TransferMeter;

const BYTES: &str = "avp_bytes_total";
const FRAMES: &str = "avp_frames_total";
const CONNECTIONS: &str = "avp_connections_total";
const OPEN: &str = "avp_connections_open";
const HANDSHAKES: &str = "avp_handshakes_total";
const TRANSFERS: &str = "avp_transfers_total";
const STALLS: &str = "avp_stalls_total";
const STALL_SECONDS: &str = "avp_stall_seconds";
const REJECTS: &str = "avp_rejects_total";
const FAULTS: &str = "avp_faults_total";

/// A single wait within a frame that lasts longer is a stall.
pub(crate) const STALL: Duration = Duration::from_secs(1);
/// A frame with a longer payload is no refusal.
const MAX_REJECT: usize = 64 << 10;

/// Gives the recorder units and descriptions of the metrics of this crate. Call it once, after the recorder is installed
/// and before connections are made: metrics of earlier connections do not reach it.
///
/// ```
/// use metrics_exporter_prometheus::PrometheusBuilder;
/// let recorder = PrometheusBuilder::new().build_recorder();
/// let handle = recorder.handle();
/// metrics::set_global_recorder(recorder).expect("no other recorder is installed");
/// avp_transport::describe_metrics();
/// avp_transport::memory_pair("observed", &avp_transport::Options::default());
/// assert!(handle.render().contains(r#"avp_connections_open{transport="mem"} 0"#));
/// ```
pub fn describe_metrics() {
    describe_counter!(
        BYTES,
        Unit::Bytes,
        "Bytes of whole frames, heads included, by transport and direction"
    );
    describe_counter!(FRAMES, Unit::Count, "Whole frames, by transport and direction");
    describe_counter!(CONNECTIONS, Unit::Count, "Connections, by transport, side and outcome");
    describe_gauge!(OPEN, Unit::Count, "Connections that are open, by transport");
    describe_counter!(HANDSHAKES, Unit::Count, "Handshakes of AVP, by transport, side and outcome");
    describe_counter!(TRANSFERS, Unit::Count, "Transfers that have ended, by transport and outcome");
    describe_counter!(
        STALLS,
        Unit::Count,
        "Waits of over a second within a frame, by transport and direction"
    );
    describe_histogram!(STALL_SECONDS, Unit::Seconds, "How long stalls lasted, by transport and direction");
    describe_counter!(
        REJECTS,
        Unit::Count,
        "Refusals said to peers and heard from them, by transport and code"
    );
    describe_counter!(
        FAULTS,
        Unit::Count,
        "Frames and waits that failed by the peer's doing, by transport and code"
    );
}

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Sent,
    Received,
}

impl Direction {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// Which side of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
    /// Neither connected nor accepted: made of a byte stream.
    Neither,
}

impl Side {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Neither => "neither",
        }
    }
}

/// What carries a connection, as labels name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Scheme(Scheme),
    /// A byte stream of the application's.
    Stream,
    /// A transport of the application's.
    Custom,
}

impl Carrier {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Scheme(Scheme::Memory) => "mem",
            Self::Scheme(Scheme::Tcp) => "tcp",
            Self::Scheme(Scheme::Tls) => "tls",
            Self::Scheme(Scheme::Quic) => "quic",
            Self::Scheme(Scheme::SharedMemory) => "shm",
            Self::Scheme(Scheme::Http) => "http",
            Self::Scheme(Scheme::Https) => "https",
            Self::Stream => "stream",
            Self::Custom => "custom",
        }
    }
}

impl From<Scheme> for Carrier {
    fn from(scheme: Scheme) -> Self {
        Self::Scheme(scheme)
    }
}

/// Counts a connection that a connector was asked for and that did not come about.
pub(crate) fn connecting<T>(scheme: Scheme, outcome: Result<T>) -> Result<T> {
    outcome.inspect_err(|error| {
        if !matches!(error, TransportError::Usage(_)) {
            failed(scheme, Side::Client, error);
        }
    })
}

/// Counts a connection that did not come about, and the refusal, if it is one.
pub(crate) fn failed(scheme: Scheme, side: Side, error: &TransportError) {
    let transport = Carrier::from(scheme).as_str();
    ended_early(transport, side, "failed");
    let direction = match error {
        TransportError::Incompatible(
            Incompatible::Refused { .. } | Incompatible::TurnedAway { .. } | Incompatible::NotLetIn { .. },
        ) => Direction::Received,
        TransportError::Incompatible(Incompatible::User { .. }) if side == Side::Server => Direction::Sent,
        _ => return,
    };
    count_reject(transport, direction, error.code().as_str());
}

/// Counts an accepted connection that had to make room for others while its transport shook hands.
pub(crate) fn made_room(scheme: Scheme) {
    ended_early(Carrier::from(scheme).as_str(), Side::Server, "dropped");
}

fn ended_early(transport: &'static str, side: Side, outcome: &'static str) {
    counter!(CONNECTIONS, "transport" => transport, "side" => side.as_str(), "outcome" => outcome)
        .increment(1);
}

fn count_reject(transport: &'static str, direction: Direction, code: &'static str) {
    let direction = direction.as_str();
    counter!(REJECTS, "transport" => transport, "direction" => direction, "code" => code).increment(1);
    tracing::debug!(transport, direction, code, "refused");
}

/// The code of a frame that is a refusal. Codes that this side does not know are one.
fn refusal(frame: &Frame) -> Option<&'static str> {
    if frame.metadata.mode != Mode::Json || frame.payload.len() > MAX_REJECT {
        return None;
    }
    Some(Reject::from_frame(frame)?.code.map_or("unknown", ErrorCode::as_str))
}

/// How a handshake ended, as its label says it.
pub(crate) fn outcome_of<T>(outcome: &Result<T>) -> &'static str {
    match outcome {
        Ok(_) => "agreed",
        Err(TransportError::Incompatible(_)) => "rejected",
        Err(TransportError::Peer(PeerFault::Handshake { .. } | PeerFault::Unauthorized { .. })) => "rejected",
        Err(TransportError::Limit(LimitExceeded::HalfOpen { .. })) => "dropped",
        Err(_) => "failed",
    }
}
