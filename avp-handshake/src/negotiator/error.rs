//! How a handshake fails.

use avp_wire::{DecodeError, ErrorCode, Fault};

use crate::MessageError;

/// Why a handshake came to nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer's hello is not one.
    #[error("the peer's hello is malformed: {0}")]
    Malformed(MessageError),
    /// The peer's hello is longer than 64 KiB.
    #[error("the peer's hello has {actual} bytes, at most {limit} are taken")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
        /// Bytes that came.
        actual: usize,
    },
    /// The server's hello names no session, or not in 1 to 128 printable ASCII characters.
    #[error("the server's hello carries no usable session id")]
    SessionId,
    /// The peer speaks a version that has nothing in common with ours.
    #[error("the peer speaks AVP {remote:?}, this side {local}; both need the same major version")]
    Version {
        /// Version spoken here.
        local: &'static str,
        /// Version that the peer announced, cut after 32 characters.
        remote: String,
    },
    /// No hello came in time.
    #[error("no hello came within {seconds} s")]
    Timeout {
        /// Time allowed.
        seconds: u64,
    },
    /// Something else than a hello came.
    #[error("a frame that is no hello came before the handshake was over")]
    UnexpectedFrame,
    /// What came is no frame.
    #[error("the peer's hello does not decode: {0}")]
    Frame(DecodeError),
    /// The connection ended.
    #[error("the connection ended before the handshake was over")]
    Closed,
    /// The peer refused.
    #[error("the peer refused the handshake: {code}: {message}", code = code.map_or("unknown code", ErrorCode::as_str))]
    Rejected {
        /// The code that the peer named, where it is known here.
        code: Option<ErrorCode>,
        /// What the peer said, cut after 256 characters.
        message: String,
    },
}

impl HandshakeError {
    /// The stable code of this error; for a refusal, that of the peer.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Malformed(_) | Self::SessionId => ErrorCode::MalformedHello,
            Self::TooLarge { .. } => ErrorCode::HandshakeTooLarge,
            Self::Version { .. } => ErrorCode::UnsupportedVersion,
            Self::Timeout { .. } => ErrorCode::HandshakeTimeout,
            Self::UnexpectedFrame => ErrorCode::UnexpectedFrame,
            Self::Frame(error) => error.code(),
            Self::Closed => ErrorCode::ConnectionLost,
            Self::Rejected { code, .. } => code.unwrap_or(ErrorCode::Internal),
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.code().fault()
    }

    /// Whether the peer is told. A refusal is never answered with a refusal, and nobody hears after the end.
    pub(super) fn is_told(&self) -> bool {
        !matches!(self, Self::Rejected { .. } | Self::Closed)
    }
}
