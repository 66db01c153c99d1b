//! Connecting and listening.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Endpoint, IncomingFuture, ServerConfig};
use rustls::pki_types::CertificateDer;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::link::connection_over;
use super::verifier::Remembering;
use super::{endpoint, fault};
use crate::connection::{Connection, Peer, PeerAddress};
use crate::error::{Incompatible, IoFault, LimitExceeded, TransportError, UsageError};
use crate::half_open::{HalfOpenGate, PeerKey};
use crate::handshaking::Handshaking;
use crate::link::{BoxFuture, Connector, Listener, Result};
use crate::options::Options;
use crate::socket;
use crate::telemetry::connecting;
use crate::tls::{ALPN, TlsConfigError, TlsFault, identity};
use crate::url::{Scheme, TransportUrl};

/// How long an address of a name is waited for before the next is tried beside it (RFC 8305).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Connects over QUIC. [`Options::tls`] says whom it trusts and what it shows, [`Options::quic`] the rest.
#[derive(Clone, Debug)]
pub struct QuicConnector {
    options: Options,
}

impl QuicConnector {
    /// A connector with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options }
    }

    async fn open_in_time(&self, url: &TransportUrl) -> Result<Connection> {
        let after = self.options.timeouts.connect;
        match (timeout(after, self.open(url)).await, url) {
            (Ok(outcome), _) => outcome,
            (Err(_), TransportUrl::Quic { host, port }) => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                Err(LimitExceeded::NoAnswer { host, port: *port, after }.into())
            }
            (Err(_), other) => Err(not_quic(other)),
        }
    }

    /// Silence is all that tells that nobody listens, so the addresses of a name are tried beside each other.
    async fn open(&self, url: &TransportUrl) -> Result<Connection> {
        let TransportUrl::Quic { host, port } = url else {
            return Err(not_quic(url));
        };
        let mut attempts = JoinSet::new();
        for (address, turn) in socket::resolve(host, *port).await?.into_iter().zip(0..) {
            let (url, host, options) = (url.clone(), host.clone(), self.options.clone());
            attempts.spawn(async move {
                sleep(NEXT_ADDRESS * turn).await;
                dial(&url, &host, address, &options).await
            });
        }
        let mut last = None;
        while let Some(done) = attempts.join_next().await {
            match done {
                Ok(Err(error @ TransportError::Io(_))) => last = Some(error),
                // Connected, or found somebody who will not do.
                Ok(outcome) => return outcome,
                Err(_) => {}
            }
        }
        let source = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        Err(last.unwrap_or_else(|| IoFault::Unreachable { url: url.clone(), source }.into()))
    }
}

impl Connector for QuicConnector {
    fn connect<'a>(&'a self, url: &'a TransportUrl) -> BoxFuture<'a, Result<Connection>> {
        Box::pin(async move { connecting(Scheme::Quic, self.open_in_time(url).await) })
    }
}

async fn dial(url: &TransportUrl, host: &str, address: SocketAddr, options: &Options) -> Result<Connection> {
    let unreachable = |source| TransportError::from(IoFault::Unreachable { url: url.clone(), source });
    let verifier = remembering(options).map_err(UsageError::Tls)?;
    let config = client_config(&verifier, options).map_err(UsageError::Tls)?;
    let endpoint = endpoint::client(address, &options.quic).map_err(unreachable)?;
    let connecting = endpoint
        .connect_with(config, address, host)
        .map_err(|error| unreachable(std::io::Error::new(std::io::ErrorKind::InvalidInput, error)))?;
    let failed = |error| {
        let source = fault::lost(&error);
        match verifier.fault().or_else(|| TlsFault::within(&source)) {
            Some(fault) => Incompatible::Tls { peer: url.to_string(), fault }.into(),
            None => unreachable(source),
        }
    };
    let connection = connecting.await.map_err(failed)?;
    let first = connection.open_bi().await.map_err(failed)?;
    let peer = peer(&connection);
    Ok(connection_over(connection, Some(first), peer, options))
}

pub(super) fn remembering(options: &Options) -> Result<Arc<Remembering>, TlsConfigError> {
    Ok(Arc::new(Remembering::new(options.tls.verifier()?)))
}

pub(super) fn client_config(
    verifier: &Arc<Remembering>,
    options: &Options,
) -> Result<quinn::ClientConfig, TlsConfigError> {
    let mut tls = options.tls.client_verifying(verifier.inner(), &[ALPN])?;
    // The same verdicts, remembered.
    let remembering = Arc::clone(verifier);
    tls.dangerous().set_certificate_verifier(remembering);
    let crypto = QuicClientConfig::try_from(tls)
        .map_err(|error| TlsConfigError::Unusable { what: error.to_string() })?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(options.quic.transport(&options.limits)));
    Ok(config)
}

/// Accepts connections over QUIC.
#[derive(Debug)]
pub struct QuicListener {
    endpoint: Endpoint,
    url: TransportUrl,
    options: Options,
    gate: HalfOpenGate,
    handshaking: Handshaking<Connection>,
    /// The socket has failed.
    lost: Notify,
    runtime: Handle,
}

impl QuicListener {
    /// Binds to the address of an `avp+quic` URL; port 0 takes a free one.
    ///
    /// # Errors
    /// The name does not resolve, the port is taken, or [`Options::tls`] has no usable certificate.
    pub async fn bind(url: &TransportUrl, options: Options) -> Result<Self> {
        let TransportUrl::Quic { host, port } = url else {
            return Err(not_quic(url));
        };
        let config = server_config(&options).map_err(UsageError::Tls)?;
        let addresses = socket::resolve(host, *port).await?;
        let (endpoint, address) = bind(&addresses, &config, &options)?;
        let url = TransportUrl::Quic { host: address.ip().to_string(), port: address.port() };
        let gate = HalfOpenGate::new(options.limits.max_half_open_per_peer);
        let handshaking = Handshaking::new(Scheme::Quic);
        let (lost, runtime) = (Notify::new(), Handle::current());
        Ok(Self { endpoint, url, options, gate, handshaking, lost, runtime })
    }

    async fn next(&self) -> Result<Connection> {
        let next = || async {
            self.gate.ready().await;
            let Some(incoming) = self.endpoint.accept().await else {
                self.lost.notify_one();
                return pending().await;
            };
            let address = incoming.remote_address();
            // Addresses can be forged until they are validated, and must not push out honest peers.
            if !incoming.remote_address_validated() && self.gate.total() >= self.options.quic.retry_above {
                let _ = incoming.retry();
                return None;
            }
            let place = self.gate.enter(PeerKey::from(address.ip()));
            Some((place, accept(incoming.into_future(), address, self.options.clone())))
        };
        let deadline = self.options.limits.handshake_timeout;
        tokio::select! {
            (connection, place) = self.handshaking.accept(next, deadline) => Ok(connection.with_half_open(place)),
            () = self.lost.notified() => {
                self.lost.notify_one();
                let source = std::io::Error::other("its socket has failed");
                Err(IoFault::Broken { peer: self.url.to_string(), source }.into())
            }
        }
    }
}

impl Listener for QuicListener {
    fn accept(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(self.next())
    }

    fn local_url(&self) -> &TransportUrl {
        &self.url
    }
}

impl Drop for QuicListener {
    fn drop(&mut self) {
        self.runtime.spawn(refuse(self.endpoint.clone()));
    }
}

/// Connections go on at the socket of a listener that is gone. New ones, and those that nobody has accepted, are told
/// that they are not wanted; quinn would leave them without an answer.
async fn refuse(endpoint: Endpoint) {
    loop {
        tokio::select! {
            biased;
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => incoming.refuse(),
                None => return,
            },
            () = endpoint.wait_idle() => return,
        }
    }
}

fn bind(
    addresses: &[SocketAddr],
    config: &ServerConfig,
    options: &Options,
) -> Result<(Endpoint, SocketAddr)> {
    let source = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    let mut last = IoFault::Lookup { host: String::new(), source };
    for &address in addresses {
        let bound = endpoint::server(address, config.clone(), &options.quic)
            .and_then(|endpoint| endpoint.local_addr().map(|taken| (endpoint, taken)));
        match bound {
            Ok(bound) => return Ok(bound),
            Err(source) => last = socket::bind_fault(address, source),
        }
    }
    Err(last.into())
}

pub(super) fn server_config(options: &Options) -> Result<ServerConfig, TlsConfigError> {
    let tls = options.tls.server(&[ALPN])?;
    let crypto = QuicServerConfig::try_from(tls)
        .map_err(|error| TlsConfigError::Unusable { what: error.to_string() })?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(options.quic.transport(&options.limits)))
        .max_incoming(options.quic.max_incoming)
        .incoming_buffer_size(64 << 10)
        .incoming_buffer_size_total(8 << 20);
    Ok(config)
}

async fn accept(incoming: IncomingFuture, address: SocketAddr, options: Options) -> Result<Connection> {
    let connection =
        incoming.await.map_err(|error| TransportError::broken(address.to_string(), fault::lost(&error)))?;
    let peer = peer(&connection);
    Ok(connection_over(connection, None, peer, &options))
}

/// Who is at the other end; its certificate says who that is.
fn peer(connection: &quinn::Connection) -> Peer {
    let peer = Peer::at(PeerAddress::Socket(connection.remote_address()));
    let chain =
        connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    match chain.and_then(|chain| identity(&chain)) {
        Some(identity) => peer.with_identity(identity),
        None => peer,
    }
}

fn not_quic(url: &TransportUrl) -> TransportError {
    Incompatible::Transport { url: url.clone(), scheme: url.scheme() }.into()
}
