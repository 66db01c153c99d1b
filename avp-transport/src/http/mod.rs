//! AVP over HTTP (docs/spec/http.md): requests and answers, as the Python SDK speaks them, and frames both ways over a
//! connection that began as a request.
//!
//! [`HttpListener`] serves both at one port. [`HttpClient`] makes requests; [`HttpConnector`] upgrades.
//! [`HttpAgent`] is a ready [`HttpService`]: it shakes hands, keeps sessions, and leaves frames and texts to an
//! [`HttpHandler`].

mod agent;
mod body;
mod client;
mod connector;
mod dial;
mod inline;
mod io;
mod options;
mod refusal;
mod server;
mod service;
mod tuning;

pub use agent::{HttpAgent, HttpHandler};
pub use client::{HttpAnswer, HttpClient, HttpSession};
pub use connector::HttpConnector;
pub use options::{HttpLimits, HttpServerOptions, MetricsText};
pub use refusal::HttpRefusal;
pub use server::HttpListener;
pub use service::{HttpCaller, HttpReply, HttpService};

/// The parts of a connection, to measure frames against.
#[cfg(feature = "testing")]
pub(crate) mod bare {
    pub(crate) use super::inline::Tasks;
    pub(crate) use super::tuning::{PIECE, http2_client, http2_server};
}

use crate::error::{Incompatible, TransportError};
use crate::url::TransportUrl;

/// Media type of a frame.
pub(crate) const FRAME_TYPE: &str = "application/avp+binary";
/// Media type of everything else.
pub(crate) const JSON_TYPE: &str = "application/json";
/// What `AVP-Version` says.
pub(crate) const BINDING_VERSION: &str = "0.4";
/// What an upgrade asks for.
pub(crate) const UPGRADE: &str = "avp/1";

pub(crate) const HANDSHAKE: &str = "/avp/v2/handshake";
pub(crate) const TRANSMIT: &str = "/avp/v2/transmit";
pub(crate) const TEXT: &str = "/avp/v2/text";
pub(crate) const CONNECT: &str = "/avp/v2/connect";
pub(crate) const HEALTH: &str = "/health";
pub(crate) const METRICS: &str = "/metrics";

/// Longest answer in JSON that a client reads, and longest text message.
pub(crate) const MAX_JSON: usize = avp_handshake::MAX_TEXT_BYTES;

/// Whether the address is under TLS, its host and port.
fn parts(url: &TransportUrl) -> Result<(bool, &str, u16), TransportError> {
    match url {
        TransportUrl::Http { tls, host, port } => Ok((*tls, host, *port)),
        other => Err(Incompatible::Transport { url: other.clone(), scheme: other.scheme() }.into()),
    }
}

/// `host:port` as a URL has it.
fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
