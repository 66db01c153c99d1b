//! Certificates, keys and trust of this side, and the rustls configurations made of them.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What this side shows and whom it trusts, for TLS, QUIC and HTTPS. TLS 1.3 only.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TlsOptions {
    /// The certificate of this side. A listener needs one; a connector shows it where the listener asks.
    pub certificate: Option<TlsCertificate>,
    /// The authorities whose certificates are accepted. At a connector `None` stands for those of the system; at a
    /// listener it means that clients need no certificate, and otherwise every client does (mutual TLS).
    pub authorities: Option<TlsAuthorities>,
}

/// A certificate chain and its private key. `Debug` does not print the key.
#[derive(Clone)]
pub struct TlsCertificate {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

/// Certificates of authorities.
#[derive(Clone, Debug)]
pub struct TlsAuthorities(Arc<RootCertStore>);

/// Why certificates or keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {what}; check the path and who may read it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        what: String,
    },
    /// There is no certificate in the PEM text.
    #[error("{origin} holds no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate {
        /// Where it was looked for.
        origin: String,
    },
    /// There is no private key in the PEM text.
    #[error("{origin} holds no private key in PEM form (`-----BEGIN PRIVATE KEY-----`)")]
    NoKey {
        /// Where it was looked for.
        origin: String,
    },
    /// A listener without a certificate.
    #[error("a listener with TLS needs a certificate: give --cert and --key; `avp cert` makes them")]
    CertificateNeeded,
    /// The system has no authorities, and none were given.
    #[error("no certificate authority to trust: give one (--ca); `avp cert` makes one")]
    NoAuthorities,
    /// The key is not that of the certificate.
    #[error(
        "the key in {key} does not belong to the certificate in {certificate}; give the two that were made together"
    )]
    KeyMismatch {
        /// Where the certificate is from.
        certificate: String,
        /// Where the key is from.
        key: String,
    },
    /// Certificate or key cannot be used.
    #[error("the certificate cannot be used: {what}")]
    Unusable {
        /// Why.
        what: String,
    },
}

impl TlsCertificate {
    /// Reads PEM text: the certificate first, then those that it was issued under; and its key.
    ///
    /// # Errors
    /// [`TlsConfigError`] if one of them is missing or broken, or the key is another certificate's.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, TlsConfigError> {
        Self::parse(chain.as_bytes(), "the certificate's text", key.as_bytes(), "the key's text")
    }

    /// Reads PEM files.
    ///
    /// # Errors
    /// [`TlsConfigError`] naming the file.
    pub fn from_files(chain: &Path, key: &Path) -> Result<Self, TlsConfigError> {
        Self::parse(&read(chain)?, &chain.display().to_string(), &read(key)?, &key.display().to_string())
    }

    fn parse(chain: &[u8], chain_origin: &str, key: &[u8], key_origin: &str) -> Result<Self, TlsConfigError> {
        let chain = certificates(chain, chain_origin)?;
        let no_key = |_| TlsConfigError::NoKey { origin: key_origin.to_owned() };
        let key = PrivateKeyDer::from_pem_slice(key).map_err(no_key)?;
        match CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider()) {
            Ok(_) => Ok(Self { chain, key: Arc::new(key) }),
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsConfigError::KeyMismatch {
                certificate: chain_origin.to_owned(),
                key: key_origin.to_owned(),
            }),
            Err(error) => Err(unusable(format!("{chain_origin}, {key_origin}: {error}"))),
        }
    }
}

impl fmt::Debug for TlsCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsCertificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl TlsAuthorities {
    /// Reads PEM text of one or more authorities.
    ///
    /// # Errors
    /// [`TlsConfigError`] if there is none.
    pub fn from_pem(text: &str) -> Result<Self, TlsConfigError> {
        Self::parse(text.as_bytes(), "the authorities' text")
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// [`TlsConfigError`] naming the file.
    pub fn from_file(path: &Path) -> Result<Self, TlsConfigError> {
        Self::parse(&read(path)?, &path.display().to_string())
    }

    fn parse(text: &[u8], origin: &str) -> Result<Self, TlsConfigError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(text, origin)? {
            store.add(certificate).map_err(unusable)?;
        }
        Ok(Self(Arc::new(store)))
    }

    fn of_system() -> Result<Self, TlsConfigError> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() { Err(TlsConfigError::NoAuthorities) } else { Ok(Self(Arc::new(store))) }
    }
}

impl TlsOptions {
    /// The configuration of a connector that offers `alpn`.
    ///
    /// # Errors
    /// [`TlsConfigError`].
    pub(crate) fn client(&self, alpn: &[&[u8]]) -> Result<ClientConfig, TlsConfigError> {
        self.client_verifying(self.verifier()?, alpn)
    }

    /// Checks certificates of listeners.
    pub(crate) fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, TlsConfigError> {
        let roots = self.authorities.clone().map_or_else(TlsAuthorities::of_system, Ok)?;
        WebPkiServerVerifier::builder_with_provider(roots.0, provider()).build().map_err(unusable)
    }

    /// As [`client`](Self::client), with a verifier made before.
    pub(crate) fn client_verifying(
        &self,
        verifier: Arc<WebPkiServerVerifier>,
        alpn: &[&[u8]],
    ) -> Result<ClientConfig, TlsConfigError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_webpki_verifier(verifier);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(own) => {
                builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).map_err(unusable)?
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }

    /// The configuration of a listener that speaks `alpn` and nothing else. No early data.
    ///
    /// # Errors
    /// [`TlsConfigError`].
    pub(crate) fn server(&self, alpn: &[&[u8]]) -> Result<ServerConfig, TlsConfigError> {
        let own = self.certificate.as_ref().ok_or(TlsConfigError::CertificateNeeded)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?;
        let builder = match &self.authorities {
            None => builder.with_no_client_auth(),
            Some(TlsAuthorities(roots)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider());
                builder.with_client_cert_verifier(verifier.build().map_err(unusable)?)
            }
        };
        let mut config =
            builder.with_single_cert(own.chain.clone(), own.key.clone_key()).map_err(unusable)?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

/// The identity that a verified certificate stands for: its first name (DNS or URI), else its fingerprint.
pub(crate) fn identity(chain: &[CertificateDer<'_>]) -> Option<String> {
    let leaf = chain.first()?;
    let parsed = webpki::EndEntityCert::try_from(leaf).ok();
    let name = parsed.as_ref().and_then(|cert| cert.valid_dns_names().chain(cert.valid_uri_names()).next());
    Some(match name {
        Some(name) => format!("cert:{name}"),
        None => format!("cert:blake3:{}", blake3::hash(leaf).to_hex()),
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    fs::read(path).map_err(|error| TlsConfigError::Read { path: path.to_owned(), what: error.to_string() })
}

fn certificates(text: &[u8], origin: &str) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    found
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| TlsConfigError::NoCertificate { origin: origin.to_owned() })
}

fn unusable(error: impl fmt::Display) -> TlsConfigError {
    TlsConfigError::Unusable { what: error.to_string() }
}
