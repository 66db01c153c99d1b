//! What quinn's errors mean.

use std::io::{self, ErrorKind};

use quinn::{ConnectionError, ReadError, TransportErrorCode, WriteError};
use rustls::AlertDescription;

use super::DONE;
use crate::tls::TlsFault;

/// A lost connection as an error of the system, a [`TlsFault`] within it where TLS is the reason.
pub(super) fn lost(error: &ConnectionError) -> io::Error {
    if let Some(fault) = tls(error) {
        return io::Error::other(fault);
    }
    let said = |kind, text: &str| io::Error::new(kind, text.to_owned());
    match error {
        ConnectionError::ApplicationClosed(close) if close.error_code == DONE => {
            said(ErrorKind::ConnectionAborted, "the peer closed it")
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            said(ErrorKind::ConnectionRefused, "the listener takes no more connections")
        }
        ConnectionError::Reset => said(
            ErrorKind::ConnectionReset,
            "the peer does not know it any more (stateless reset); it has probably restarted",
        ),
        ConnectionError::TimedOut => said(
            ErrorKind::TimedOut,
            "nothing was heard of the peer within the idle timeout (`quic.idle_timeout`)",
        ),
        ConnectionError::LocallyClosed => said(ErrorKind::NotConnected, "this side closed it"),
        other => io::Error::other(other.clone()),
    }
}

/// The TLS fault in a lost connection: errors 0x100 to 0x1ff are TLS alerts (RFC 9001, 4.8).
fn tls(error: &ConnectionError) -> Option<TlsFault> {
    match error {
        ConnectionError::ConnectionClosed(close) => alert(close.error_code).map(TlsFault::of_alert),
        ConnectionError::TransportError(error) => alert(error.code).map(|alert| match alert {
            AlertDescription::NoApplicationProtocol => TlsFault::NoProtocol,
            AlertDescription::CertificateRequired => TlsFault::CertificateRequired,
            _ => TlsFault::Other(error.reason.clone()),
        }),
        _ => None,
    }
}

fn alert(code: TransportErrorCode) -> Option<AlertDescription> {
    let alert = u64::from(code).checked_sub(0x100)?;
    u8::try_from(alert).ok().map(AlertDescription::from)
}

pub(super) fn reading(error: &ReadError) -> io::Error {
    match error {
        ReadError::ConnectionLost(error) => lost(error),
        ReadError::Reset(_) => io::Error::new(ErrorKind::ConnectionReset, "the peer gave up the stream"),
        other => io::Error::other(other.clone()),
    }
}

pub(super) fn writing(error: &WriteError) -> io::Error {
    match error {
        WriteError::ConnectionLost(error) => lost(error),
        WriteError::Stopped(_) => {
            io::Error::new(ErrorKind::BrokenPipe, "the peer takes no more of the stream")
        }
        other => io::Error::other(other.clone()),
    }
}

/// Whether the peer ended the connection in good order.
pub(super) fn is_done(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(close) if close.error_code == DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_alerts_are_told_from_other_codes() {
        assert_eq!(alert(TransportErrorCode::crypto(120)), Some(AlertDescription::NoApplicationProtocol));
        assert_eq!(alert(TransportErrorCode::crypto(116)), Some(AlertDescription::CertificateRequired));
        assert_eq!(alert(TransportErrorCode::CONNECTION_REFUSED), None);
        assert!(tls(&ConnectionError::TimedOut).is_none());
    }

    #[test]
    fn resets_and_timeouts_say_what_happened() {
        for (error, kind, says) in [
            (ConnectionError::Reset, ErrorKind::ConnectionReset, "restarted"),
            (ConnectionError::TimedOut, ErrorKind::TimedOut, "idle_timeout"),
            (ConnectionError::LocallyClosed, ErrorKind::NotConnected, "this side"),
        ] {
            let error = lost(&error);
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
