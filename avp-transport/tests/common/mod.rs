//! What the tests of several transports share: certificates, and connected pairs that use them.
#![allow(dead_code)]

pub(crate) mod http;
#[cfg(target_os = "linux")]
pub(crate) mod raw_shm;

use std::sync::LazyLock;

use avp_handshake::{Hello, ModelIdentity, NegotiatorConfig, PeerId};
use avp_transport::testing::Harness;
use avp_transport::tls::{DevCa, Issued};
use avp_transport::{BoxFuture, Connection, Options, TlsAuthorities, TlsCertificate, connect, listen};

static CA: LazyLock<DevCa> = LazyLock::new(|| DevCa::new("test authority").unwrap());

/// A certificate of the tests' authority for `names`.
pub(crate) fn issue(names: &[&str]) -> Issued {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CA.issue(&names).unwrap()
}

pub(crate) fn certificate(issued: &Issued) -> TlsCertificate {
    TlsCertificate::from_pem(&issued.certificate, &issued.key).unwrap()
}

pub(crate) fn authorities() -> TlsAuthorities {
    TlsAuthorities::from_pem(CA.certificate()).unwrap()
}

pub(crate) fn authorities_pem() -> String {
    CA.certificate().to_owned()
}

/// The authority's certificate, for clients that are not ours.
pub(crate) fn authority_der() -> Vec<rustls::pki_types::CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::pem_slice_iter(CA.certificate().as_bytes())
        .map(Result::unwrap)
        .collect()
}

/// `options` of a listener on loopback.
pub(crate) fn secure_server(mut options: Options) -> Options {
    options.tls.certificate = Some(certificate(&issue(&["localhost", "127.0.0.1"])));
    options
}

/// `options` of a connector that trusts that listener.
pub(crate) fn secure_client(mut options: Options) -> Options {
    options.tls.authorities = Some(authorities());
    options
}

/// Connects through an address that needs certificates.
pub(crate) struct Secure(pub(crate) &'static str);

impl Harness for Secure {
    fn pair(&self, client: Options, server: Options) -> BoxFuture<'_, (Connection, Connection)> {
        Box::pin(async move {
            let listener = listen(&self.0.parse().unwrap(), &secure_server(server)).await.unwrap();
            let client = secure_client(client);
            let (client, server) = tokio::join!(connect(listener.local_url(), &client), listener.accept());
            (client.unwrap(), server.unwrap())
        })
    }
}

pub(crate) fn config(name: &str) -> NegotiatorConfig {
    let identity = ModelIdentity { model_hash: "44136fa3".into(), ..Default::default() };
    NegotiatorConfig::new(Hello::new(name, identity), PeerId::new("overwritten"))
}

/// A pair in memory whose ends have options of their own.
pub(crate) async fn memory(client: &Options, server: &Options) -> (Connection, Connection) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let url = format!("avp+mem:common-{}", NEXT.fetch_add(1, Ordering::Relaxed)).parse().unwrap();
    let listener = listen(&url, server).await.unwrap();
    let (client, server) = tokio::join!(connect(&url, client), listener.accept());
    (client.unwrap(), server.unwrap())
}
