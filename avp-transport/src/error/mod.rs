//! What can go wrong on a transport, grouped by who is at fault.

mod limit;

pub use limit::{Deadline, LimitExceeded};

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use avp_wire::ErrorCode;
use avp_wire::ext::FrameKind;

use crate::auth::Unauthorized;
use crate::http::HttpRefusal;
use crate::shm::ShmFault;
use crate::tls::{TlsConfigError, TlsFault};
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
            Self::Incompatible(Incompatible::Transport { .. } | Incompatible::NoUpgrade { .. }) => {
                ErrorCode::NoHandler
            }
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

    /// A connection that broke by `source`, or was refused by the peer's TLS after this side had taken it for made.
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
    /// A secure connection did not come about.
    #[error("no secure connection with {peer}: {fault}")]
    Tls {
        /// With whom.
        peer: String,
        /// Why.
        fault: TlsFault,
    },
    /// The listener does not let this side in.
    #[error("{peer} does not let this side in: {}", token_hint(*.showed_token))]
    TurnedAway {
        /// Who listens there.
        peer: String,
        /// Whether this side showed a token.
        showed_token: bool,
    },
    /// The process at the other end of the socket belongs to a user who is not let in.
    #[error(
        "{peer} belongs to user {uid}, this process to user {own}; list the user in `shm.uids` to let it in"
    )]
    User {
        /// Who is there.
        peer: String,
        /// Its user.
        uid: u32,
        /// The user of this process.
        own: u32,
    },
    /// The listener does not take this process.
    #[error("{peer} refused the connection (error {code}); does it let in this process's user?")]
    NotLetIn {
        /// Who refused.
        peer: String,
        /// Number of the error (docs/spec/errors.md).
        code: u16,
    },
    /// An HTTP server refused the request.
    #[error("{peer} refused the request: {refusal}")]
    Refused {
        /// Who refused.
        peer: String,
        /// With which status, and why.
        refusal: HttpRefusal,
    },
    /// An HTTP server that does not carry AVP connections.
    #[error(
        "{peer} is an HTTP server that does not carry AVP connections: it answered the upgrade to avp/1 with {status}{};          is another service listening there? The Python SDK's servers take requests only (HttpClient)",
        software(.server.as_deref())
    )]
    NoUpgrade {
        /// Who answered.
        peer: String,
        /// With which status.
        status: u16,
        /// What it calls itself (`Server`).
        server: Option<String>,
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

/// The caller asked for something that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// The address does not parse.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// Plain TCP beyond loopback without permission.
    #[error(
        "{address} is not a loopback address, and plain TCP is neither encrypted nor authenticated; set the option \
         `allow_remote` (`--allow-remote`) if the network is trusted"
    )]
    RemoteNotAllowed {
        /// The address.
        address: SocketAddr,
    },
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// A name for this agent that no HTTP header can hold.
    #[error("the agent's id cannot be in an HTTP header; use printable ASCII")]
    AgentId,
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
    /// No socket can have the path.
    #[error(
        "`{}` cannot be the path of a socket: it has {len} bytes, at most {limit} are possible; choose a shorter path",
        .path.display()
    )]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        len: usize,
        /// The longest there can be.
        limit: usize,
    },
    /// Something else lies where a socket should be made.
    #[error("`{}` exists and is not a socket; remove it or choose another path", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
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
    /// Another process listens at the path.
    #[error("{} is in use; stop the program that listens there, or choose another path", .path.display())]
    SocketInUse {
        /// The path.
        path: PathBuf,
    },
    /// A socket cannot be made there.
    #[error("cannot listen at {}: {source}; check that the directory exists and can be written", .path.display())]
    BindSocket {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives no shared memory, or no descriptor for it.
    #[error("no shared memory: {source}; check the limits on memory and on open files (`ulimit -n`)")]
    SharedMemory {
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

fn software(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(" (`{name}`)"))
}

fn transfer_name(transfer: &Option<String>) -> String {
    transfer.as_ref().map_or_else(|| "no transfer".to_owned(), |id| format!("transfer `{id}`"))
}

fn available() -> String {
    let names: Vec<String> = Scheme::ALL
        .into_iter()
        .filter(|scheme| scheme.available())
        .map(|scheme| format!("`{scheme}`"))
        .collect();
    names.join(", ")
}

fn token_hint(showed_token: bool) -> &'static str {
    if showed_token {
        "the token that was shown is not one of those it knows; give another (--token-file)"
    } else {
        "no token was shown; give the one that it expects (--token-file)"
    }
}

/// What other protocol begins like this, and what to do about it.
fn other_protocol(first: &[u8]) -> &'static str {
    const REQUESTS: [&[u8]; 7] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PRI "];
    if matches!(first, [0x14..=0x17, 3, ..]) {
        "that is TLS; both sides need the same scheme (avp+tls://)"
    } else if REQUESTS.iter().any(|request| first.starts_with(request)) {
        "that is an HTTP request; both sides need the same scheme"
    } else if first.starts_with(b"HTTP") {
        "that is HTTP; is another service listening there?"
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn messages_name_the_fault_and_what_to_do() {
        let not_avp = PeerFault::NotAvp { peer: "127.0.0.1:80".into(), first: b"HTTP/1.1 400".to_vec() };
        assert_eq!(
            not_avp.to_string(),
            "127.0.0.1:80 does not speak AVP: its first bytes are 48 54 54 50 2f 31 2e 31 20 34 30 30 (HTTP/1.1.400); \
             that is HTTP; is another service listening there?"
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
