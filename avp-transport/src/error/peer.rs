//! What a peer did against the protocol.

use avp_wire::ext::FrameKind;

use crate::auth::Unauthorized;
use crate::shm::ShmFault;

/// The peer broke the protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerFault {
    /// The first bytes are not a frame's.
    #[error("{peer} does not speak AVP: its first bytes are {}; {}", hex(.first), other_protocol(.first))]
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
        /// What it was, where its head says so.
        kind: Option<FrameKind>,
        /// What is wrong with it.
        source: avp_wire::DecodeError,
    },
    /// A frame on a transfer's own stream that is not the transfer's. It was refused; the stream goes on.
    #[error("{peer} sent a frame of {} on a stream of transfer `{transfer}`", transfer_name(.named))]
    OtherTransfer {
        /// Who sent it.
        peer: String,
        /// The transfer of the stream.
        transfer: String,
        /// The transfer that the frame names.
        named: Option<String>,
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
    /// The peer may not open a session here.
    #[error("{peer} was turned away: {source}")]
    Unauthorized {
        /// Who came.
        peer: String,
        /// Why.
        source: Unauthorized,
    },
    /// It broke the rules of shared memory.
    #[error("{peer} broke the rules of shared memory: {fault}")]
    SharedMemory {
        /// Who broke them.
        peer: String,
        /// How.
        fault: ShmFault,
    },
    /// What came is no answer of an AVP server.
    #[error("{peer} gave an answer that is not AVP's: {what}; is another service listening there?")]
    Answer {
        /// Who answered.
        peer: String,
        /// What is wrong with it.
        what: String,
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

fn transfer_name(transfer: &Option<String>) -> String {
    transfer.as_ref().map_or_else(|| "no transfer".to_owned(), |id| format!("transfer `{id}`"))
}

/// What other protocol begins like this, and what to do about it.
fn other_protocol(first: &[u8]) -> &'static str {
    const REQUESTS: [&[u8]; 7] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PRI "];
    if matches!(first, [0x14..=0x17, 3, ..]) {
        "that is TLS; both sides need the same scheme (avp+tls:// or https://)"
    } else if REQUESTS.iter().any(|request| first.starts_with(request)) {
        "that is an HTTP request; both sides need the same scheme"
    } else if first.starts_with(b"HTTP") {
        "that is HTTP; to reach an agent there use the scheme http:// (or https://)"
    } else {
        "is another service listening there?"
    }
}

fn hex(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let text: String =
        bytes.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect();
    format!("{} ({text})", hex.join(" "))
}
