//! What can go wrong on a transport, grouped by who is at fault.

mod incompatible;
mod limit;
mod local;
mod peer;

pub use incompatible::Incompatible;
pub(crate) use incompatible::token_hint;
pub use limit::{Deadline, LimitExceeded};
pub use local::{IoFault, UsageError};
pub use peer::PeerFault;

use std::io;

use avp_wire::ErrorCode;
use avp_wire::ext::FrameKind;

use crate::tls::TlsFault;
use crate::url::UrlError;

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
            Self::Peer(PeerFault::Truncated { .. } | PeerFault::ClosedInHandshake { .. })
            | Self::Incompatible(Incompatible::Tls { fault: TlsFault::Ended, .. }) => {
                ErrorCode::ConnectionLost
            }
            Self::Peer(PeerFault::Handshake { source, .. })
            | Self::Incompatible(Incompatible::Handshake { source, .. }) => source.code(),
            Self::Limit(limit) => limit.code(),
            Self::Peer(
                PeerFault::SharedMemory { .. } | PeerFault::Answer { .. } | PeerFault::OtherTransfer { .. },
            ) => ErrorCode::UnexpectedFrame,
            Self::Peer(PeerFault::Unauthorized { .. })
            | Self::Incompatible(
                Incompatible::Tls { .. }
                | Incompatible::TurnedAway { .. }
                | Incompatible::User { .. }
                | Incompatible::NotLetIn { .. },
            ) => ErrorCode::Unauthorized,
            Self::Incompatible(Incompatible::Refused { refusal, .. }) => refusal.code_or_nearest(),
            Self::Incompatible(
                Incompatible::Transport { .. }
                | Incompatible::NoUpgrade { .. }
                | Incompatible::NotHttp { .. },
            ) => ErrorCode::NoHandler,
            Self::Usage(UsageError::Encode(source)) => source.code(),
            Self::Usage(_) => ErrorCode::InvalidArgument,
            Self::Io(_) => ErrorCode::Io,
        }
    }

    /// What the frame was that this error cost, where it cost one and its head says so.
    #[must_use]
    pub fn lost_kind(&self) -> Option<FrameKind> {
        match self {
            Self::Peer(PeerFault::DamagedFrame { kind, .. })
            | Self::Limit(LimitExceeded::Unpacked { kind, .. }) => *kind,
            _ => None,
        }
    }

    /// A connection that broke by `source`, damage of a TLS record included, or that was refused: a peer's TLS may do so
    /// after this side had taken the connection for made.
    pub(crate) fn broken(peer: String, source: io::Error) -> Self {
        match TlsFault::within(&source) {
            Some(fault) => Incompatible::Tls { peer, fault }.into(),
            None => IoFault::Broken { peer, source }.into(),
        }
    }

    /// Whether the connection can go on. After [`PeerFault::DamagedFrame`] the frame is lost and later ones are in
    /// step; after [`LimitExceeded::Memory`] it is still pending, to be tried again or refused (a
    /// [`Transfer`](crate::Transfer) has refused it).
    #[must_use]
    pub fn is_recoverable(&self) -> bool {
        match self {
            Self::Peer(fault) => {
                matches!(fault, PeerFault::DamagedFrame { .. } | PeerFault::OtherTransfer { .. })
            }
            Self::Limit(limit) => {
                matches!(
                    limit,
                    LimitExceeded::Deadline { which: Deadline::Idle, .. }
                        | LimitExceeded::SharedMemory { .. }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::url::Scheme;

    #[test]
    fn messages_name_the_fault_and_what_to_do() {
        let not_avp = PeerFault::NotAvp { peer: "127.0.0.1:80".into(), first: b"HTTP/1.1 400".to_vec() };
        assert_eq!(
            not_avp.to_string(),
            "127.0.0.1:80 does not speak AVP: its first bytes are 48 54 54 50 2f 31 2e 31 20 34 30 30 (HTTP/1.1.400); \
             that is HTTP; to reach an agent there use the scheme http:// (or https://)"
        );
        for (first, says) in [(&b"\x15\x03\x03\x00\x02\x02"[..], "avp+tls"), (b"GET / HT", "HTTP request")] {
            let message = PeerFault::NotAvp { peer: "p".into(), first: first.to_vec() }.to_string();
            assert!(message.contains(says) && message.contains("same scheme"), "{message}");
        }
        let stalled = LimitExceeded::Deadline {
            peer: "p".into(),
            which: Deadline::Receive,
            after: Duration::from_secs(30),
            got: 7,
            expected: 12,
        };
        assert!(stalled.to_string().starts_with("timed out after 30.0 s waiting for p: the frame deadline"));
        assert!(stalled.to_string().ends_with("(7 of 12 bytes)"));
        let (peer, after) = ("p".into(), Duration::from_secs(10));
        let idle = LimitExceeded::Deadline { peer, which: Deadline::Idle, after, got: 0, expected: 0 };
        assert!(idle.to_string().ends_with("the idle deadline, no frame came"));
        let url = "avp+tcp://h:1".parse().unwrap();
        let missing = Incompatible::Transport { url, scheme: Scheme::Tcp };
        assert!(
            missing.to_string().contains(
                "not available in this build; available: `avp+mem`, `avp+tcp`, `avp+tls`, `avp+quic`"
            )
        );
    }
}
