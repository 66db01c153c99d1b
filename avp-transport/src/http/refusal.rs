//! A request that was refused: its status, and why.

use std::fmt;
use std::time::Duration;

use avp_handshake::SessionError;
use avp_wire::ErrorCode;
use serde_json::Value;

use crate::error::TransportError;

/// Longest message of a peer that is kept, in characters.
const MAX_MESSAGE: usize = 256;

/// An answer with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpRefusal {
    /// The status.
    pub status: u16,
    /// Why, by the table of docs/spec/errors.md; the Python SDK names none.
    pub code: Option<ErrorCode>,
    /// Why, for people.
    pub message: String,
    /// When to try again (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl HttpRefusal {
    /// A refusal for a reason; the status follows from the code.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let status = status_of(code);
        let retry_after = matches!(status, 429 | 503).then_some(Duration::from_secs(1));
        Self { status, code: Some(code), message: message.into(), retry_after }
    }

    /// A refusal of HTTP itself.
    #[must_use]
    pub fn with_status(status: u16, message: impl Into<String>) -> Self {
        Self { status, code: None, message: message.into(), retry_after: None }
    }

    /// The body that says so: that of the SDK, and the code.
    pub(super) fn to_json(&self) -> String {
        // FastAPI answers these two before the SDK's own code.
        if let (404 | 405, None) = (self.status, self.code) {
            return format!(r#"{{"detail":{}}}"#, Value::from(self.message.as_str()));
        }
        let mut text = format!(r#"{{"success":false,"message":{}"#, Value::from(self.message.as_str()));
        if let Some(code) = self.code {
            text.push_str(&format!(r#","code":"{code}""#));
        }
        text.push('}');
        text
    }

    /// Reads an answer; `body` may be anything.
    pub(super) fn read(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        let parsed = serde_json::from_slice::<Value>(body).unwrap_or_default();
        let field = |name: &str| parsed.get(name).and_then(Value::as_str);
        let message = field("message").or_else(|| field("detail")).map_or_else(
            || String::from_utf8_lossy(body.get(..body.len().min(4 * MAX_MESSAGE)).unwrap_or_default()),
            Into::into,
        );
        Self {
            status,
            code: field("code").and_then(ErrorCode::from_name),
            message: message.trim().chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect(),
            retry_after,
        }
    }

    /// The code, or the nearest to the status.
    #[must_use]
    pub fn code_or_nearest(&self) -> ErrorCode {
        self.code.unwrap_or(match self.status {
            401 | 403 => ErrorCode::Unauthorized,
            404 | 405 | 415 | 426 | 501 => ErrorCode::NoHandler,
            408 => ErrorCode::TooSlow,
            413 | 431 => ErrorCode::FrameTooLarge,
            429 | 503 => ErrorCode::Busy,
            400..=499 => ErrorCode::InvalidArgument,
            _ => ErrorCode::Internal,
        })
    }
}

impl fmt::Display for HttpRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(code) = self.code {
            write!(f, " {code}")?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl From<&TransportError> for HttpRefusal {
    fn from(error: &TransportError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<&SessionError> for HttpRefusal {
    fn from(error: &SessionError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// The status for a code: 400 where the SDK has no other.
fn status_of(code: ErrorCode) -> u16 {
    match code {
        ErrorCode::Unauthorized => 401,
        ErrorCode::NoHandler => 501,
        ErrorCode::FrameTooLarge
        | ErrorCode::MemoryBudget
        | ErrorCode::MetadataTooLarge
        | ErrorCode::HandshakeTooLarge => 413,
        ErrorCode::TooSlow | ErrorCode::DeadlineExceeded | ErrorCode::HandshakeTimeout => 408,
        ErrorCode::BudgetSpent => 429,
        ErrorCode::Busy | ErrorCode::Cancelled => 503,
        ErrorCode::Internal => 500,
        _ => 400,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_back_from_its_body() {
        let refusal = HttpRefusal::new(ErrorCode::ChecksumMismatch, "\"damaged\"");
        assert_eq!(
            refusal.to_json(),
            r#"{"success":false,"message":"\"damaged\"","code":"frame.checksum_mismatch"}"#
        );
        assert_eq!(HttpRefusal::read(400, None, refusal.to_json().as_bytes()), refusal);
    }

    #[test]
    fn answers_of_other_servers_are_cut_and_cleaned() {
        let page = format!("<html>\r\n{}", "é".repeat(5000));
        let refusal = HttpRefusal::read(502, None, page.as_bytes());
        assert!(refusal.message.starts_with("<html>é") && refusal.message.chars().count() == 256);
        assert_eq!(refusal.code_or_nearest(), ErrorCode::Internal);
        let fastapi = HttpRefusal::read(404, None, br#"{"detail":"Not Found"}"#);
        assert_eq!(
            (fastapi.message.as_str(), fastapi.to_json().as_str()),
            ("Not Found", r#"{"detail":"Not Found"}"#)
        );
    }
}
