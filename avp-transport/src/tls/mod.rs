//! TLS 1.3: configuration, certificates for development, and TCP under it.

mod accept;
mod config;
mod dev_ca;
mod fault;
mod transport;

pub(crate) use accept::accept;
pub(crate) use config::identity;
pub use config::{TlsAuthorities, TlsCertificate, TlsConfigError, TlsOptions};
pub use dev_ca::{CA_VALIDITY, CERTIFICATE_VALIDITY, CertificateError, DevCa, Issued};
pub use fault::TlsFault;
pub use transport::{TlsConnector, TlsListener};
pub(crate) use transport::{fault, server_name};

/// The protocol's name in TLS (ALPN).
pub const ALPN: &[u8] = b"avp/1";
