//! Plain TCP. Loopback only, unless [`Options::allow_remote`] says otherwise.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

use crate::connection::{Connection, Peer, PeerAddress};
use crate::error::{Deadline, Incompatible, IoFault, LimitExceeded, TransportError, UsageError};
use crate::half_open::{HalfOpenGate, PeerKey};
use crate::link::{BoxFuture, Connector, Listener, Result};
use crate::options::Options;
use crate::stream::connection_over;
use crate::url::TransportUrl;

/// Connects over plain TCP.
#[derive(Clone, Debug, Default)]
pub struct TcpConnector {
    options: Options,
}

impl TcpConnector {
    /// A connector with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    async fn open(&self, url: &TransportUrl) -> Result<Connection> {
        let addresses = resolve(url, &self.options).await?;
        let unreachable = |source| IoFault::Unreachable { url: url.clone(), source };
        let mut last = unreachable(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return tcp_connection(stream, address, &self.options),
                Err(source) => last = unreachable(source),
            }
        }
        Err(last.into())
    }
}

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, url: &'a TransportUrl) -> BoxFuture<'a, Result<Connection>> {
        Box::pin(async move {
            let after = self.options.timeouts.connect;
            timeout(after, self.open(url)).await.unwrap_or_else(|_| {
                let (peer, which) = (url.to_string(), Deadline::Connect);
                Err(LimitExceeded::Deadline { peer, which, after, got: 0, expected: 0 }.into())
            })
        })
    }
}

/// Accepts plain TCP connections.
#[derive(Debug)]
pub struct TcpListener {
    listener: tokio::net::TcpListener,
    url: TransportUrl,
    options: Options,
    gate: HalfOpenGate,
}

impl TcpListener {
    /// Binds to the address of an `avp+tcp` URL; port 0 takes a free one, which
    /// [`local_url`](Listener::local_url) names.
    ///
    /// # Errors
    /// The name does not resolve, the port is taken, or the address is not loopback and
    /// [`Options::allow_remote`] is off.
    pub async fn bind(url: &TransportUrl, options: Options) -> Result<Self> {
        let mut last: TransportError = match url {
            TransportUrl::Tcp { host, .. } => IoFault::Lookup {
                host: host.clone(),
                source: io::Error::from(io::ErrorKind::AddrNotAvailable),
            }
            .into(),
            other => return Err(not_tcp(other)),
        };
        for address in resolve(url, &options).await? {
            match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => return Self::over(listener, options),
                Err(source) if source.kind() == io::ErrorKind::AddrInUse => {
                    last = IoFault::PortInUse { address }.into();
                }
                Err(source) => last = IoFault::Bind { address, source }.into(),
            }
        }
        Err(last)
    }

    fn over(listener: tokio::net::TcpListener, options: Options) -> Result<Self> {
        let address = listener
            .local_addr()
            .map_err(|source| IoFault::Broken { peer: "the listening socket".to_owned(), source })?;
        let url = TransportUrl::Tcp { host: address.ip().to_string(), port: address.port() };
        let gate = HalfOpenGate::new(options.limits.max_half_open_per_peer);
        Ok(Self { listener, url, options, gate })
    }

    async fn next(&self) -> Result<Connection> {
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => match tcp_connection(stream, address, &self.options) {
                    Ok(connection) => {
                        return Ok(connection.with_half_open(self.gate.enter(PeerKey::from(address.ip()))));
                    }
                    Err(error) => tracing::debug!(%address, %error, "a peer left while it was accepted"),
                },
                // One peer's failure, or a shortage of descriptors that passes, must not end a server.
                Err(error) => {
                    tracing::warn!(%error, "accept failed, trying again");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

impl Listener for TcpListener {
    fn accept(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(self.next())
    }

    fn local_url(&self) -> &TransportUrl {
        &self.url
    }
}

fn tcp_connection(stream: TcpStream, address: SocketAddr, options: &Options) -> Result<Connection> {
    // Frames are written whole; waiting for more to fill a segment only adds delay.
    stream.set_nodelay(true).map_err(|source| IoFault::Broken { peer: address.to_string(), source })?;
    let (read, write) = stream.into_split();
    Ok(connection_over(read, write, Peer::at(PeerAddress::Socket(address)), options))
}

async fn resolve(url: &TransportUrl, options: &Options) -> Result<Vec<SocketAddr>> {
    let TransportUrl::Tcp { host, port } = url else {
        return Err(not_tcp(url));
    };
    let found = lookup_host((host.as_str(), *port))
        .await
        .map_err(|source| IoFault::Lookup { host: host.clone(), source })?;
    let addresses: Vec<SocketAddr> = found.collect();
    if !options.allow_remote
        && let Some(&address) = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback())
    {
        return Err(UsageError::RemoteNotAllowed { address }.into());
    }
    Ok(addresses)
}

fn not_tcp(url: &TransportUrl) -> TransportError {
    Incompatible::Transport { url: url.clone(), scheme: url.scheme() }.into()
}
