//! Why an operation gives no result, and the table of error codes.

use avp_handshake::MessageError;
use avp_wire::{DecodeError, EncodeError, ErrorCode, Fault, KvError, ext::ExtError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::form::read;

pub(super) enum Failure {
    /// The implementation says no.
    Refused { code: ErrorCode, detail: String },
    /// The request has not the fields of its operation.
    BadRequest(anyhow::Error),
}

impl Failure {
    pub(super) fn refused(code: ErrorCode, detail: impl ToString) -> Self {
        Self::Refused { code, detail: detail.to_string() }
    }

    pub(super) fn invalid(detail: impl ToString) -> Self {
        Self::refused(ErrorCode::InvalidArgument, detail)
    }
}

macro_rules! refused {
    ($($error:ty),+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::refused(error.code(), error)
            }
        })+
    };
}
refused!(DecodeError, EncodeError, ExtError, KvError);

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        Self::refused(code_of_message(&error), error)
    }
}

/// As the negotiator says it of a hello.
fn code_of_message(error: &MessageError) -> ErrorCode {
    match error {
        MessageError::TooLarge { .. } => ErrorCode::HandshakeTooLarge,
        _ => ErrorCode::MalformedHello,
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::BadRequest(error)
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

pub(super) fn describe(fields: Value) -> Answer {
    let Named { name } = read(fields)?;
    let code = ErrorCode::from_name(&name).ok_or_else(|| Failure::invalid("no such error code"))?;
    let fault = match code.fault() {
        Fault::Peer => "peer",
        Fault::Incompatible => "incompatible",
        Fault::Limit => "limit",
        Fault::Caller => "caller",
        Fault::Io => "io",
    };
    Ok(json!({ "number": code.number(), "fault": fault }))
}
