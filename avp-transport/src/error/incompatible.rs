//! What keeps two sides from working together that are both well.

use crate::http::HttpRefusal;
use crate::tls::TlsFault;
use crate::url::{Scheme, TransportUrl};

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
        "{peer} is an HTTP server that does not carry AVP connections: it answered the upgrade to avp/1 with {status}{}; is another service listening there? The Python SDK's servers take requests only (HttpClient)",
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
    /// What answers an HTTP request is another protocol.
    #[error("{peer} speaks {speaks}, not HTTP; use the scheme {scheme}")]
    NotHttp {
        /// Who answered.
        peer: String,
        /// What it speaks.
        speaks: &'static str,
        /// How to reach it.
        scheme: &'static str,
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

fn software(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(" (`{name}`)"))
}

fn available() -> String {
    let names: Vec<String> = Scheme::ALL
        .into_iter()
        .filter(|scheme| scheme.available())
        .map(|scheme| format!("`{scheme}`"))
        .collect();
    names.join(", ")
}

/// What to do where a listener asks for a token.
pub(crate) fn token_hint(showed_token: bool) -> &'static str {
    if showed_token {
        "the token that was shown is not one of those it knows; give another (--token-file)"
    } else {
        "no token was shown; give the one that it expects (--token-file)"
    }
}
