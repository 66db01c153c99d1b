//! Addresses: `avp+tcp://host:port` and its siblings choose the transport.

mod parse;
mod scheme;

use std::fmt;
use std::path::PathBuf;

pub use parse::UrlError;
pub use scheme::Scheme;

/// A parsed address.
///
/// ```
/// use avp_transport::TransportUrl;
/// let url: TransportUrl = "avp+tcp://127.0.0.1:7700".parse()?;
/// assert_eq!(url, TransportUrl::Tcp { host: "127.0.0.1".into(), port: 7700 });
/// # Ok::<(), avp_transport::UrlError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransportUrl {
    /// `avp+mem:name`
    Memory {
        /// Name within this process.
        name: String,
    },
    /// `avp+tcp://host:port`
    Tcp {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port; 0 lets a listener take a free one.
        port: u16,
    },
    /// `avp+tls://host:port`
    Tls {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `avp+quic://host:port`
    Quic {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// `avp+shm:///path/to.sock`
    SharedMemory {
        /// Path of the Unix socket.
        path: PathBuf,
    },
    /// `http://host[:port]` or `https://host[:port]`
    Http {
        /// Whether TLS is used.
        tls: bool,
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port, 80 or 443 where the URL says none.
        port: u16,
    },
}

impl TransportUrl {
    /// The transport that this address names.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        match self {
            Self::Memory { .. } => Scheme::Memory,
            Self::Tcp { .. } => Scheme::Tcp,
            Self::Tls { .. } => Scheme::Tls,
            Self::Quic { .. } => Scheme::Quic,
            Self::SharedMemory { .. } => Scheme::SharedMemory,
            Self::Http { tls: false, .. } => Scheme::Http,
            Self::Http { tls: true, .. } => Scheme::Https,
        }
    }
}

impl fmt::Display for TransportUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme();
        match self {
            Self::Memory { name } => write!(f, "{scheme}:{name}"),
            Self::SharedMemory { path } => write!(f, "{scheme}://{}", path.display()),
            Self::Tcp { host, port }
            | Self::Tls { host, port }
            | Self::Quic { host, port }
            | Self::Http { host, port, .. } => {
                if host.contains(':') {
                    write!(f, "{scheme}://[{host}]:{port}")
                } else {
                    write!(f, "{scheme}://{host}:{port}")
                }
            }
        }
    }
}
