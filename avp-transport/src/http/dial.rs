//! Reaching an HTTP server: the socket, TLS where the address asks for it, and which HTTP it will be.

use std::io;
use std::sync::Arc;

use ::http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use hyper::Request;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::body::OutBody;
use super::io::Clues;
use super::{BINDING_VERSION, authority, parts};
use crate::connection::{Peer, PeerAddress};
use crate::error::{Incompatible, IoFault, PeerFault, TransportError, UsageError};
use crate::link::Result;
use crate::options::Options;
use crate::socket;
use crate::tls::{fault, identity, server_name};
use crate::url::TransportUrl;

/// A connected socket.
pub(super) enum Dialled {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The socket, who is there, and whether it chose HTTP/2.
pub(super) struct Reached {
    pub(super) socket: Dialled,
    pub(super) peer: Peer,
    pub(super) h2: bool,
}

/// Connects; over TLS offers `alpn`.
pub(super) async fn reach(url: &TransportUrl, options: &Options, alpn: &[&[u8]]) -> Result<Reached> {
    let (tls, host, port) = parts(url)?;
    let addresses = socket::resolve(host, port).await?;
    if !tls {
        socket::check_loopback(&addresses, options)?;
    }
    let (stream, address) = socket::dial_any(url, &addresses).await?;
    socket::tune(&stream, address)?;
    let peer = Peer::at(PeerAddress::Socket(address));
    if !tls {
        return Ok(Reached { socket: Dialled::Plain(stream), peer, h2: false });
    }
    let config = options.tls.client(alpn).map_err(UsageError::Tls)?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(server_name(url, host)?, stream);
    let stream = connecting.await.map_err(|error| fault(url.to_string(), error))?;
    let (_, session) = stream.get_ref();
    let h2 = session.alpn_protocol() == Some(b"h2");
    let peer = session.peer_certificates().and_then(identity).into_iter().fold(peer, Peer::with_identity);
    Ok(Reached { socket: Dialled::Tls(Box::new(stream.into())), peer, h2 })
}

/// A request with the headers that every one carries. Over HTTP/2 the host goes into the URI.
pub(super) fn request(
    url: &TransportUrl,
    options: &Options,
    (method, path): (hyper::Method, &str),
    h2: bool,
    body: OutBody,
) -> Result<Request<OutBody>> {
    let (tls, host, port) = parts(url)?;
    let host = authority(host, port);
    let mut request = Request::new(body);
    let scheme = if tls { "https" } else { "http" };
    let target = if h2 { format!("{scheme}://{host}{path}") } else { path.to_owned() };
    let unusable = |_| {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "no host name or address");
        TransportError::from(IoFault::Lookup { host: host.clone(), source })
    };
    *request.uri_mut() = target.parse().map_err(unusable)?;
    *request.method_mut() = method;
    let headers = request.headers_mut();
    if !h2 {
        let value = HeaderValue::from_str(&host).map_err(|_| {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "no host name or address");
            IoFault::Lookup { host: host.clone(), source }
        })?;
        headers.insert(HOST, value);
    }
    headers.insert(HeaderName::from_static("avp-version"), HeaderValue::from_static(BINDING_VERSION));
    if let Some(token) = &options.token
        && let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.reveal()))
    {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(request)
}

/// What hyper's failure means.
pub(super) fn failure(peer: &Peer, clues: &Clues, error: hyper::Error) -> TransportError {
    let peer = peer.to_string();
    if let Some(fault) = clues.refused() {
        return Incompatible::Tls { peer, fault: fault.clone() }.into();
    }
    match clues.opening() {
        Some(avp_wire::MAGIC) => {
            return Incompatible::NotHttp { peer, speaks: "AVP", scheme: "avp+tcp://" }.into();
        }
        Some([0x14..=0x17, 3]) => {
            return Incompatible::NotHttp { peer, speaks: "TLS", scheme: "https:// or avp+tls://" }.into();
        }
        _ => {}
    }
    if error.is_parse() {
        return PeerFault::Answer { peer, what: format!("it does not speak HTTP ({error})") }.into();
    }
    IoFault::Broken { peer, source: io::Error::other(error) }.into()
}
