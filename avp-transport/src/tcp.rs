//! Plain TCP. Loopback only, unless [`Options::allow_remote`] says otherwise.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::connection::{Connection, Peer, PeerAddress};
use crate::error::{Incompatible, TransportError};
use crate::half_open::{HalfOpenGate, PeerKey};
use crate::link::{BoxFuture, Connector, Listener, Result};
use crate::options::Options;
use crate::socket;
use crate::stream;
use crate::telemetry::{Meter, Side, connecting};
use crate::url::{Scheme, TransportUrl};

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
        let addresses = loopback(url, &self.options).await?;
        let (stream, address) = socket::dial_any(url, &addresses).await?;
        tcp_connection(stream, address, &self.options, Side::Client)
    }
}

impl Connector for TcpConnector {
    fn connect<'a>(&'a self, url: &'a TransportUrl) -> BoxFuture<'a, Result<Connection>> {
        Box::pin(
            async move { connecting(Scheme::Tcp, socket::in_time(url, &self.options, self.open(url)).await) },
        )
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
        let addresses = loopback(url, &options).await?;
        let (listener, address) = socket::bind(&url.to_string(), &addresses).await?;
        let url = TransportUrl::Tcp { host: address.ip().to_string(), port: address.port() };
        let gate = HalfOpenGate::new(options.limits.max_half_open_per_peer);
        Ok(Self { listener, url, options, gate })
    }

    async fn next(&self) -> Result<Connection> {
        loop {
            self.gate.ready().await;
            let (stream, address) = socket::accept(&self.listener).await;
            match tcp_connection(stream, address, &self.options, Side::Server) {
                Ok(connection) => {
                    return Ok(connection.with_half_open(self.gate.enter(PeerKey::from(address.ip()))));
                }
                Err(error) => tracing::debug!(peer = %address, %error, "a peer left while it was accepted"),
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

fn tcp_connection(
    stream: TcpStream,
    address: SocketAddr,
    options: &Options,
    side: Side,
) -> Result<Connection> {
    socket::tune(&stream, address)?;
    let (read, write) = stream.into_split();
    let peer = Peer::at(PeerAddress::Socket(address));
    let meter = Meter::connection(Scheme::Tcp, side, &peer);
    Ok(stream::metered(read, write, peer, options, meter))
}

/// The addresses of the URL, all of them allowed.
async fn loopback(url: &TransportUrl, options: &Options) -> Result<Vec<SocketAddr>> {
    let TransportUrl::Tcp { host, port } = url else {
        return Err(not_tcp(url));
    };
    let addresses = socket::resolve(host, *port).await?;
    socket::check_loopback(&addresses, options)?;
    Ok(addresses)
}

fn not_tcp(url: &TransportUrl) -> TransportError {
    Incompatible::Transport { url: url.clone(), scheme: url.scheme() }.into()
}
