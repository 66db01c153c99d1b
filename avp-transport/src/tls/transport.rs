//! TCP under TLS 1.3.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::{ALPN, TlsFault, identity};
use crate::connection::{Connection, Peer, PeerAddress};
use crate::error::{Incompatible, IoFault, TransportError, UsageError};
use crate::half_open::{HalfOpenGate, PeerKey, Progress};
use crate::handshaking::Handshaking;
use crate::link::{BoxFuture, Connector, Listener, Result};
use crate::options::Options;
use crate::socket;
use crate::stream;
use crate::telemetry::{Meter, Side, connecting};
use crate::turns::Turns;
use crate::url::{Scheme, TransportUrl};

/// Connects over TLS. [`Options::tls`] says whom it trusts and what it shows.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    options: Options,
}

impl TlsConnector {
    /// A connector with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    async fn open(&self, url: &TransportUrl) -> Result<Connection> {
        let TransportUrl::Tls { host, port } = url else {
            return Err(not_tls(url));
        };
        let config = self.options.tls.client(&[ALPN]).map_err(UsageError::Tls)?;
        let (stream, address) = socket::dial(url, host, *port).await?;
        let name = server_name(url, host)?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.map_err(|error| fault(url.to_string(), error))?;
        secured(stream.into(), address, &self.options, Side::Client)
    }
}

impl Connector for TlsConnector {
    fn connect<'a>(&'a self, url: &'a TransportUrl) -> BoxFuture<'a, Result<Connection>> {
        Box::pin(
            async move { connecting(Scheme::Tls, socket::in_time(url, &self.options, self.open(url)).await) },
        )
    }
}

/// Accepts connections over TLS.
#[derive(Debug)]
pub struct TlsListener {
    listener: tokio::net::TcpListener,
    url: TransportUrl,
    options: Options,
    gate: HalfOpenGate,
    config: Arc<rustls::ServerConfig>,
    handshaking: Handshaking<Connection>,
    turns: Arc<Turns>,
}

impl TlsListener {
    /// Binds to the address of an `avp+tls` URL; port 0 takes a free one.
    ///
    /// # Errors
    /// The name does not resolve, the port is taken, or [`Options::tls`] has no usable certificate.
    pub async fn bind(url: &TransportUrl, options: Options) -> Result<Self> {
        let TransportUrl::Tls { host, port } = url else {
            return Err(not_tls(url));
        };
        let config = Arc::new(options.tls.server(&[ALPN]).map_err(UsageError::Tls)?);
        let addresses = socket::resolve(host, *port).await?;
        let (listener, address) = socket::bind(host, &addresses).await?;
        let url = TransportUrl::Tls { host: address.ip().to_string(), port: address.port() };
        let gate = HalfOpenGate::new(options.limits.max_half_open_per_peer);
        let (handshaking, turns) = (Handshaking::new(Scheme::Tls), Arc::default());
        Ok(Self { listener, url, options, gate, config, handshaking, turns })
    }

    async fn next(&self) -> Connection {
        let next = || async {
            self.turns.ready().await;
            self.gate.ready().await;
            let (stream, address) = socket::accept(&self.listener).await;
            let place = self.gate.enter(PeerKey::from(address.ip()));
            let (config, turns) = (Arc::clone(&self.config), (Arc::clone(&self.turns), place.progress()));
            Some((place, accept(stream, address, config, turns, self.options.clone())))
        };
        let (connection, place) = self.handshaking.accept(next, self.options.limits.handshake_timeout).await;
        connection.with_half_open(place)
    }
}

impl Listener for TlsListener {
    fn accept(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async { Ok(self.next().await) })
    }

    fn local_url(&self) -> &TransportUrl {
        &self.url
    }
}

async fn accept(
    stream: TcpStream,
    address: SocketAddr,
    config: Arc<rustls::ServerConfig>,
    (turns, progress): (Arc<Turns>, Progress),
    options: Options,
) -> Result<Connection> {
    let stream = super::accept::accept(stream, config, &turns, progress)
        .await
        .map_err(|error| fault(address.to_string(), error))?;
    secured(stream.into(), address, &options, Side::Server)
}

/// A connection over an established stream; who the peer is, its certificate says.
fn secured(
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    options: &Options,
    side: Side,
) -> Result<Connection> {
    let (tcp, session) = stream.get_ref();
    socket::tune(tcp, address)?;
    let mut peer = Peer::at(PeerAddress::Socket(address));
    if session.alpn_protocol() != Some(ALPN) {
        return Err(Incompatible::Tls { peer: peer.to_string(), fault: TlsFault::NoProtocol }.into());
    }
    if let Some(identity) = session.peer_certificates().and_then(identity) {
        peer = peer.with_identity(identity);
    }
    let (read, write) = tokio::io::split(stream);
    let meter = Meter::connection(Scheme::Tls, side, &peer);
    Ok(stream::metered(read, write, peer, options, meter))
}

/// The name that the listener's certificate has to be for.
pub(crate) fn server_name(url: &TransportUrl, host: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).map_err(|_| {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "no host name or address");
        IoFault::Lookup { host: url.to_string(), source }.into()
    })
}

/// What a failed handshake means.
pub(crate) fn fault(peer: String, source: io::Error) -> TransportError {
    match TlsFault::within_handshake(&source) {
        Some(fault) => Incompatible::Tls { peer, fault }.into(),
        None => IoFault::Broken { peer, source }.into(),
    }
}

fn not_tls(url: &TransportUrl) -> TransportError {
    Incompatible::Transport { url: url.clone(), scheme: url.scheme() }.into()
}
