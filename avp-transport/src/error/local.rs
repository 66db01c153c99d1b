//! What went wrong on this side: wrong use, and the system.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::tls::TlsConfigError;
use crate::url::{TransportUrl, UrlError};

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
    /// The transport carries frames alone.
    #[error("the connection to {peer} passes no descriptors; only those over shared memory do")]
    NoDescriptors {
        /// Who is there.
        peer: String,
    },
}

/// The system or the network failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoFault {
    /// Nobody answers.
    #[error("cannot reach {url}: {source}; is an agent listening there?")]
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
    #[error("cannot listen on {address}: {source}{}", bind_advice(source))]
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

/// What to do where the system lets nobody listen.
fn bind_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrNotAvailable => {
            "; it is no address of this machine: give one that is, such as 127.0.0.1, or 0.0.0.0 for all of them"
        }
        io::ErrorKind::PermissionDenied => "; choose a port from 1024 on, or 0 for a free one",
        _ => "",
    }
}
