//! Errors of candle as errors of an engine.

use avp_backend::BackendError;

/// Wraps an error of candle; only its first line, since it may carry a backtrace.
pub(crate) fn engine(error: candle_core::Error) -> BackendError {
    BackendError::Engine(error.to_string().lines().next().unwrap_or("failed without a message").to_owned())
}
