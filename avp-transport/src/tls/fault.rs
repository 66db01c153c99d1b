//! What went wrong in a TLS handshake, in terms of what to do about it.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

/// Why a secure connection did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// The peer's first bytes are not TLS.
    #[error("it does not speak TLS; is it a plain port (avp+tcp, http)?")]
    NotTls,
    /// The connection ended before the handshake was done: the peer is overloaded or restarts, something in between cut it
    /// off, or it does not speak TLS and says nothing to those who do.
    #[error(
        "the connection ended within the TLS handshake; try again, and if it stays so, see whether it is a plain port (avp+tcp, http)"
    )]
    Ended,
    /// The peer's certificate was not issued by an authority that is trusted here.
    #[error(
        "its certificate is from an authority that is not trusted here; give that authority's certificate (--ca)"
    )]
    UnknownAuthority,
    /// The peer's certificate has expired.
    #[error("its certificate has expired; it needs a new one (`avp cert`)")]
    Expired,
    /// The peer's certificate is not valid yet.
    #[error("its certificate is not valid yet; compare the clocks")]
    NotYetValid,
    /// The peer's certificate is for other names.
    #[error(
        "its certificate is not for this name; connect by a name in it, or issue one for this name (`avp cert`)"
    )]
    WrongName,
    /// The peer has nothing to say to `avp/1`.
    #[error(
        "it speaks TLS but not AVP (no common ALPN protocol); is it another service, or the other of avp+tls:// and https://?"
    )]
    NoProtocol,
    /// The peer wants a certificate of this side.
    #[error("it asks for a certificate of this side; give one (--cert, --key)")]
    CertificateRequired,
    /// The peer does not take this side's certificate.
    #[error(
        "it does not accept this side's certificate; use one of an authority that it trusts, and not an expired one"
    )]
    CertificateRefused,
    /// Something else.
    #[error("TLS failed: {0}")]
    Other(String),
}

impl TlsFault {
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => match error {
                // A bad signature is what an authority makes that only has the name of a trusted one.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::WrongName
                }
                other => Self::Other(other.to_string()),
            },
            Error::NoCertificatesPresented => Self::CertificateRequired,
            Error::NoApplicationProtocol => Self::NoProtocol,
            Error::InvalidMessage(_) => Self::NotTls,
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            other => Self::Other(other.to_string()),
        }
    }

    /// What the peer complained of.
    pub(crate) fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::NoApplicationProtocol => Self::NoProtocol,
            AlertDescription::CertificateRequired => Self::CertificateRequired,
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => Self::CertificateRefused,
            other => Self::Other(format!("the peer says {other:?}")),
        }
    }

    /// Why one side has refused the other, where an error of a TLS or QUIC stream says so. Records that were damaged on
    /// their way, and complaints of a peer that got such, are no refusals.
    pub(crate) fn within(error: &io::Error) -> Option<Self> {
        let inner = error.get_ref()?;
        inner
            .downcast_ref::<Self>()
            .cloned()
            .or_else(|| inner.downcast_ref::<Error>().filter(|error| is_refusal(error)).map(Self::of))
    }

    /// As [`within`](Self::within), in a handshake: there bytes may also be those of another protocol.
    pub(crate) fn within_handshake(error: &io::Error) -> Option<Self> {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Some(Self::Ended);
        }
        let not_tls = error.get_ref().and_then(|inner| inner.downcast_ref()).is_some_and(is_another_protocol);
        if not_tls { Some(Self::NotTls) } else { Self::within(error) }
    }
}

fn is_refusal(error: &Error) -> bool {
    match error {
        Error::AlertReceived(alert) => !matches!(
            alert,
            AlertDescription::BadRecordMac
                | AlertDescription::CloseNotify
                | AlertDescription::DecodeError
                | AlertDescription::DecryptionFailed
                | AlertDescription::IllegalParameter
                | AlertDescription::InternalError
                | AlertDescription::RecordOverflow
                | AlertDescription::UnexpectedMessage
                | AlertDescription::UserCanceled
                | AlertDescription::Unknown(_)
        ),
        Error::InvalidCertificate(_)
        | Error::InvalidCertRevocationList(_)
        | Error::NoApplicationProtocol
        | Error::NoCertificatesPresented
        | Error::PeerIncompatible(_)
        | Error::UnsupportedNameType => true,
        _ => false,
    }
}

/// Whether what came has not even the head of a TLS record.
fn is_another_protocol(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::UnknownProtocolVersion
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(error: Error) -> Option<TlsFault> {
        TlsFault::within(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn refusals_are_told_from_damage() {
        for (error, fault) in [
            (Error::AlertReceived(AlertDescription::UnknownCA), TlsFault::CertificateRefused),
            (Error::AlertReceived(AlertDescription::CertificateRequired), TlsFault::CertificateRequired),
            (Error::AlertReceived(AlertDescription::NoApplicationProtocol), TlsFault::NoProtocol),
            (Error::InvalidCertificate(CertificateError::Expired), TlsFault::Expired),
        ] {
            assert_eq!(within(error), Some(fault));
        }
        for error in [
            Error::DecryptError,
            Error::PeerSentOversizedRecord,
            Error::InvalidMessage(InvalidMessage::InvalidContentType),
            Error::AlertReceived(AlertDescription::BadRecordMac),
            Error::AlertReceived(AlertDescription::DecodeError),
            Error::AlertReceived(AlertDescription::UnexpectedMessage),
        ] {
            assert_eq!(within(error.clone()), None, "{error}");
        }
    }

    #[test]
    fn an_end_within_a_handshake_is_no_other_protocol() {
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof");
        assert_eq!(TlsFault::within_handshake(&error), Some(TlsFault::Ended));
        assert_eq!(TlsFault::within(&error), None);
    }

    #[test]
    fn only_in_a_handshake_is_garbage_another_protocol() {
        for (message, fault) in [
            (InvalidMessage::InvalidContentType, Some(TlsFault::NotTls)),
            (InvalidMessage::MissingData("ServerHello"), None),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, Error::InvalidMessage(message));
            assert_eq!(TlsFault::within_handshake(&error), fault);
            assert_eq!(TlsFault::within(&error), None);
        }
    }
}
