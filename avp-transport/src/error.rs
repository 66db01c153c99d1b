//! What can go wrong on a transport, grouped by who is at fault.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use avp_wire::ErrorCode;

use crate::url::{Scheme, TransportUrl, UrlError};

/// Any failure of a transport. The first level says who is at fault, the second what happened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The peer broke the protocol.
    #[error(transparent)]
    Peer(#[from] PeerFault),
    /// Both sides are well, but cannot work together.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// A deadline or budget was exceeded.
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    /// The caller asked for something that cannot be.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The system or the network failed.
    #[error(transparent)]
    Io(#[from] IoFault),
}

impl TransportError {
    /// The stable code that a reject carries.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Peer(PeerFault::NotAvp { .. }) => ErrorCode::BadMagic,
            Self::Peer(PeerFault::MalformedHead { source, .. } | PeerFault::DamagedFrame { source, .. }) => {
                source.code()
            }
            Self::Peer(PeerFault::Truncated { .. } | PeerFault::ClosedInHandshake { .. }) => {
                ErrorCode::ConnectionLost
            }
            Self::Peer(PeerFault::Handshake { source, .. })
            | Self::Incompatible(Incompatible::Handshake { source, .. }) => source.code(),
            Self::Limit(limit) => limit.code(),
            Self::Incompatible(Incompatible::Transport { .. }) => ErrorCode::NoHandler,
            Self::Usage(UsageError::Encode(source)) => source.code(),
            Self::Usage(_) => ErrorCode::InvalidArgument,
            Self::Io(_) => ErrorCode::Io,
        }
    }

    /// Whether the connection can go on. After [`PeerFault::DamagedFrame`] the frame is lost and later ones are in
    /// step; after [`LimitExceeded::Memory`] it is still pending, to be tried again or refused.
    #[must_use]
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Peer(fault) => matches!(fault, PeerFault::DamagedFrame { .. }),
            Self::Limit(limit) => {
                matches!(
                    limit,
                    LimitExceeded::Deadline { which: Deadline::Idle, .. }
                        | LimitExceeded::Memory { .. }
                        | LimitExceeded::Unpacked { .. }
                        | LimitExceeded::Transfers { .. }
                )
            }
            Self::Usage(usage) => !matches!(usage, UsageError::Closed { .. }),
            Self::Incompatible(_) | Self::Io(_) => false,
        }
    }
}

impl From<UrlError> for TransportError {
    fn from(error: UrlError) -> Self {
        UsageError::Url(error).into()
    }
}

/// The peer broke the protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// The first bytes are not a frame's.
    #[error("{peer} does not speak AVP: its first bytes are {}; is another service listening there?", hex(.first))]
    NotAvp {
        /// Who sent it.
        peer: String,
        /// The first bytes, at most 12.
        first: Vec<u8>,
    },
    /// A header or metadata that cannot be decoded; nothing after it can be trusted.
    #[error("{peer} sent a malformed frame head: {source}")]
    MalformedHead {
        /// Who sent it.
        peer: String,
        /// What is wrong with it.
        source: avp_wire::DecodeError,
    },
    /// A payload that does not decode; the connection goes on.
    #[error("{peer} sent a damaged frame: {source}")]
    DamagedFrame {
        /// Who sent it.
        peer: String,
        /// What is wrong with it.
        source: avp_wire::DecodeError,
    },
    /// The peer closed within a frame.
    #[error("{peer} closed the connection within a frame, after {got} of {expected} bytes")]
    Truncated {
        /// Who sent it.
        peer: String,
        /// Bytes of the frame that came.
        got: u64,
        /// Bytes of the frame as announced, as far as known.
        expected: u64,
    },
    /// The peer closed before negotiation was done.
    #[error("{peer} closed the connection before the handshake was done")]
    ClosedInHandshake {
        /// Who closed.
        peer: String,
    },
    /// What the peer said in the handshake is not in order.
    #[error("handshake with {peer} failed: {source}")]
    Handshake {
        /// Who said it.
        peer: String,
        /// What is wrong with it.
        source: avp_handshake::HandshakeError,
    },
}

/// Both sides are well, but cannot work together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Incompatible {
    /// The transport exists, but not here.
    #[error("`{url}`: {scheme} is not available in this build; available: {}", available())]
    Transport {
        /// The address.
        url: TransportUrl,
        /// Its scheme.
        scheme: Scheme,
    },
    /// The handshake found that the peers do not fit, or the peer refused.
    #[error("handshake with {peer} failed: {source}")]
    Handshake {
        /// With whom.
        peer: String,
        /// Why.
        source: avp_handshake::HandshakeError,
    },
}

/// A deadline or budget was exceeded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitExceeded {
    /// A wait took too long.
    #[error("timed out after {:.1} s waiting for {peer}: {which} ({got} of {expected} bytes)", .after.as_secs_f64())]
    Deadline {
        /// Whom we waited for.
        peer: String,
        /// Which deadline.
        which: Deadline,
        /// Time spent waiting.
        after: Duration,
        /// Bytes moved, where they matter.
        got: u64,
        /// Bytes expected, where they matter.
        expected: u64,
    },
    /// A frame does not fit in the memory budget of its connection.
    #[error(
        "a frame of {needed} bytes does not fit: {held} of {budget} bytes are held by frames in use; drop frames or raise \
         `limits.memory_budget`"
    )]
    Memory {
        /// Bytes of the frame.
        needed: u64,
        /// Bytes held by earlier frames.
        held: u64,
        /// The budget.
        budget: u64,
    },
    /// A frame exceeds a limit of the codec.
    #[error("{peer} sent a frame beyond this side's limits: {source}")]
    Frame {
        /// Who sent it.
        peer: String,
        /// Which limit.
        source: avp_wire::DecodeError,
    },
    /// A payload exceeds a limit when it is unpacked; the frame is lost, the connection goes on.
    #[error("{peer} sent a payload beyond this side's limits: {source}")]
    Unpacked {
        /// Who sent it.
        peer: String,
        /// Which limit.
        source: avp_wire::DecodeError,
    },
    /// Too many bytes before negotiation was done.
    #[error("the peer sent {got} bytes before the handshake was done; {limit} are allowed")]
    HandshakeBytes {
        /// Bytes announced or received.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// Too many connections of one peer have not negotiated; the oldest was dropped.
    #[error("dropped: more than {limit} connections of this peer have not finished their handshake")]
    HalfOpen {
        /// The limit.
        limit: usize,
    },
    /// Too many transfers at once.
    #[error("{limit} transfers are open on this connection; finish one first")]
    Transfers {
        /// The limit.
        limit: usize,
    },
    /// Too many tiny frames.
    #[error(
        "the peer floods: frames smaller than {smaller_than} bytes came faster than {per_second} a second"
    )]
    TinyFrames {
        /// Payload size below which a frame is tiny.
        smaller_than: u64,
        /// Sustained rate allowed.
        per_second: u64,
    },
    /// Too many damaged or refused frames.
    #[error("gave up the connection after {limit} damaged or refused frames")]
    Rejects {
        /// The limit.
        limit: u32,
    },
}

impl LimitExceeded {
    /// The stable code that a reject carries.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Deadline { which: Deadline::Handshake, .. } => ErrorCode::HandshakeTimeout,
            Self::Deadline { which: Deadline::Receive | Deadline::Send, .. } => ErrorCode::TooSlow,
            Self::Deadline { .. } => ErrorCode::DeadlineExceeded,
            Self::Memory { .. } => ErrorCode::MemoryBudget,
            Self::Frame { source, .. } | Self::Unpacked { source, .. } => source.code(),
            Self::HandshakeBytes { .. } => ErrorCode::HandshakeTooLarge,
            Self::HalfOpen { .. } | Self::Transfers { .. } => ErrorCode::Busy,
            Self::TinyFrames { .. } | Self::Rejects { .. } => ErrorCode::BudgetSpent,
        }
    }
}

/// Which wait took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Deadline {
    /// `Limits::frame_timeout`, while a transfer takes no frames and others wait behind it
    Transfer,
    /// [`Timeouts::connect`](crate::Timeouts::connect)
    Connect,
    /// `Limits::handshake_timeout`
    Handshake,
    /// `Limits::frame_timeout` and `min_rate`, while receiving
    Receive,
    /// `Limits::frame_timeout` and `min_rate`, while sending
    Send,
    /// [`Timeouts::idle`](crate::Timeouts::idle)
    Idle,
    /// [`Timeouts::close`](crate::Timeouts::close)
    Close,
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transfer => "the frame deadline, this transfer was not received from while others waited",
            Self::Connect => "the connect deadline",
            Self::Handshake => "the handshake deadline",
            Self::Receive => "the frame deadline, it stopped sending within a frame or is too slow",
            Self::Send => "the frame deadline, it takes no data or is too slow",
            Self::Idle => "the idle deadline, no frame came",
            Self::Close => "the close deadline, it did not end its side",
        })
    }
}

/// The caller asked for something that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The address does not parse.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Plain TCP beyond loopback without permission.
    #[error(
        "{address} is not a loopback address, and plain TCP is neither encrypted nor authenticated; use `avp+tls`, or set \
         the option `allow_remote` if the network is trusted"
    )]
    RemoteNotAllowed {
        /// The address.
        address: SocketAddr,
    },
    /// `payload` or `refuse` without a head.
    #[error("no frame head is pending; call `head` first")]
    NoHead,
    /// The connection has failed or was closed before.
    #[error("the connection to {peer} is closed")]
    Closed {
        /// Who was there.
        peer: String,
    },
    /// The handshake cannot begin like this.
    #[error(transparent)]
    Configure(#[from] avp_handshake::ConfigureError),
    /// The frame cannot be written.
    #[error(transparent)]
    Encode(#[from] avp_wire::EncodeError),
    /// Another listener or stream has the name.
    #[error("`{name}` is in use in this process; choose another name")]
    NameInUse {
        /// The name.
        name: String,
    },
}

/// The system or the network failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoFault {
    /// Nobody answers.
    #[error("cannot reach {url}: {source}; is `avp serve` running there?")]
    Unreachable {
        /// The address.
        url: TransportUrl,
        /// What the system says.
        source: io::Error,
    },
    /// The name does not resolve.
    #[error("cannot look up `{host}`: {source}; check the name")]
    Lookup {
        /// The name.
        host: String,
        /// What the system says.
        source: io::Error,
    },
    /// The port is taken.
    #[error(
        "{address} is in use; stop the program that listens there, or choose another port (0 takes a free one)"
    )]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// Listening failed for another reason.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {peer} broke: {source}")]
    Broken {
        /// Who was there.
        peer: String,
        /// What the system says.
        source: io::Error,
    },
}

fn available() -> String {
    let names: Vec<String> = Scheme::ALL
        .into_iter()
        .filter(|scheme| scheme.available())
        .map(|scheme| format!("`{scheme}`"))
        .collect();
    names.join(", ")
}

fn hex(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let text: String =
        bytes.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect();
    format!("{} ({text})", hex.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_fault_and_what_to_do() {
        let not_avp = PeerFault::NotAvp { peer: "127.0.0.1:80".into(), first: b"HTTP/1.1 400".to_vec() };
        assert_eq!(
            not_avp.to_string(),
            "127.0.0.1:80 does not speak AVP: its first bytes are 48 54 54 50 2f 31 2e 31 20 34 30 30 (HTTP/1.1.400); \
             is another service listening there?"
        );
        let stalled = LimitExceeded::Deadline {
            peer: "p".into(),
            which: Deadline::Receive,
            after: Duration::from_secs(30),
            got: 7,
            expected: 12,
        };
        assert!(stalled.to_string().starts_with("timed out after 30.0 s waiting for p: the frame deadline"));
        let url = "avp+quic://h:1".parse().unwrap();
        let missing = Incompatible::Transport { url, scheme: Scheme::Quic };
        assert!(
            missing.to_string().ends_with("not available in this build; available: `avp+mem`, `avp+tcp`")
        );
    }
}
