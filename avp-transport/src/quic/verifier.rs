//! Remembers why a listener's certificate was refused: quinn passes on the TLS alert alone, which does not tell an
//! expired certificate from one that is not valid yet.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use crate::tls::TlsFault;

/// The verifier of webpki, whose verdicts it gives unchanged.
#[derive(Debug)]
pub(super) struct Remembering {
    inner: Arc<WebPkiServerVerifier>,
    fault: Mutex<Option<TlsFault>>,
}

impl Remembering {
    pub(super) fn new(inner: Arc<WebPkiServerVerifier>) -> Self {
        Self { inner, fault: Mutex::default() }
    }

    pub(super) fn inner(&self) -> Arc<WebPkiServerVerifier> {
        Arc::clone(&self.inner)
    }

    /// What was wrong with the certificate, if anything was.
    pub(super) fn fault(&self) -> Option<TlsFault> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note<T>(&self, verdict: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &verdict {
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(TlsFault::of(error));
        }
        verdict
    }
}

impl ServerCertVerifier for Remembering {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.note(self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(self.inner.verify_tls12_signature(message, cert, dss))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(self.inner.verify_tls13_signature(message, cert, dss))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
