//! Deadlines and budgets that were exceeded.

use std::fmt;
use std::time::Duration;

use avp_wire::ErrorCode;
use avp_wire::ext::FrameKind;

/// A deadline or budget was exceeded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitExceeded {
    /// A wait took too long.
    #[error("timed out after {:.1} s waiting for {peer}: {which}{}", .after.as_secs_f64(), moved(*.got, *.expected))]
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
    /// Nothing came back from an address where silence is all that tells that nobody listens.
    #[error(
        "nobody answered at {host}:{port} over UDP within {:.1} s; check the address, that an agent listens there at \
         avp+quic://, and that no firewall drops UDP",
        .after.as_secs_f64()
    )]
    NoAnswer {
        /// Name or address; IPv6 in brackets.
        host: String,
        /// UDP port.
        port: u16,
        /// Time spent waiting.
        after: Duration,
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
    /// The bodies of requests take all the memory that an HTTP listener has for them.
    #[error(
        "request bodies hold {held} of the {budget} bytes that this listener has for them; try again soon, or raise \
         `HttpLimits::body_memory`"
    )]
    Bodies {
        /// Bytes that the body would have held.
        needed: u64,
        /// Bytes that all bodies held.
        held: u64,
        /// The budget.
        budget: u64,
    },
    /// A payload gets no shared memory: too much of it is in use, by buffers of this process or at the peer.
    #[error(
        "a payload of {needed} bytes finds no room in shared memory of {budget} bytes, of which {peer} holds {held}; drop \
         buffers, or raise `shm.arena` here and `shm.peer_arena` there"
    )]
    SharedMemory {
        /// Who holds it.
        peer: String,
        /// Bytes of the payload.
        needed: u64,
        /// Bytes that the peer has not given back.
        held: u64,
        /// What both sides allow.
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
        /// What it was, where its head says so.
        kind: Option<FrameKind>,
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
            Self::Deadline { .. } | Self::NoAnswer { .. } => ErrorCode::DeadlineExceeded,
            Self::Memory { .. } | Self::SharedMemory { .. } => ErrorCode::MemoryBudget,
            Self::Frame { source, .. } | Self::Unpacked { source, .. } => source.code(),
            Self::HandshakeBytes { .. } => ErrorCode::HandshakeTooLarge,
            Self::HalfOpen { .. } | Self::Transfers { .. } | Self::Bodies { .. } => ErrorCode::Busy,
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

/// How far it came, where bytes matter.
fn moved(got: u64, expected: u64) -> String {
    if expected == 0 { String::new() } else { format!(" ({got} of {expected} bytes)") }
}
