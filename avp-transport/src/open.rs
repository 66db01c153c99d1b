//! From an address to the transport that serves it.

use crate::connection::Connection;
#[cfg(not(target_os = "linux"))]
use crate::error::Incompatible;
use crate::http::{HttpConnector, HttpListener};
use crate::link::{Connector, Listener, Result};
use crate::memory::{MemoryConnector, MemoryListener};
use crate::options::Options;
use crate::quic::{QuicConnector, QuicListener};
#[cfg(target_os = "linux")]
use crate::shm::{ShmConnector, ShmListener};
use crate::tcp::{TcpConnector, TcpListener};
use crate::tls::{TlsConnector, TlsListener};
use crate::url::TransportUrl;

/// The connector for an address.
///
/// # Errors
/// [`Incompatible::Transport`](crate::Incompatible::Transport) where this build does not carry the transport.
pub fn connector(url: &TransportUrl, options: &Options) -> Result<Box<dyn Connector>> {
    match url {
        TransportUrl::Memory { .. } => Ok(Box::new(MemoryConnector::new(options.clone()))),
        TransportUrl::Tcp { .. } => Ok(Box::new(TcpConnector::new(options.clone()))),
        TransportUrl::Tls { .. } => Ok(Box::new(TlsConnector::new(options.clone()))),
        #[cfg(target_os = "linux")]
        TransportUrl::SharedMemory { .. } => Ok(Box::new(ShmConnector::new(options.clone()))),
        TransportUrl::Quic { .. } => Ok(Box::new(QuicConnector::new(options.clone()))),
        TransportUrl::Http { .. } => Ok(Box::new(HttpConnector::new(options.clone()))),
        #[cfg(not(target_os = "linux"))]
        other @ TransportUrl::SharedMemory { .. } => Err(unavailable(other).into()),
    }
}

/// Connects to the peer at `url`.
///
/// # Errors
/// Nobody answers there, it took longer than [`Timeouts::connect`](crate::Timeouts::connect), or this build does not
/// carry the transport.
pub async fn connect(url: &TransportUrl, options: &Options) -> Result<Connection> {
    connector(url, options)?.connect(url).await
}

/// Listens at `url`.
///
/// # Errors
/// The address is taken or not allowed, or this build does not carry the transport.
pub async fn listen(url: &TransportUrl, options: &Options) -> Result<Box<dyn Listener>> {
    match url {
        TransportUrl::Memory { .. } => Ok(Box::new(MemoryListener::bind(url, options.clone())?)),
        TransportUrl::Tcp { .. } => Ok(Box::new(TcpListener::bind(url, options.clone()).await?)),
        TransportUrl::Tls { .. } => Ok(Box::new(TlsListener::bind(url, options.clone()).await?)),
        #[cfg(target_os = "linux")]
        TransportUrl::SharedMemory { .. } => Ok(Box::new(ShmListener::bind(url, options.clone()).await?)),
        TransportUrl::Quic { .. } => Ok(Box::new(QuicListener::bind(url, options.clone()).await?)),
        TransportUrl::Http { .. } => Ok(Box::new(HttpListener::bind(url, options.clone()).await?)),
        #[cfg(not(target_os = "linux"))]
        other @ TransportUrl::SharedMemory { .. } => Err(unavailable(other).into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn unavailable(url: &TransportUrl) -> Incompatible {
    Incompatible::Transport { url: url.clone(), scheme: url.scheme() }
}
