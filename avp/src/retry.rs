//! Trying again on another connection.

use std::time::Duration;

use avp_transport::{Deadline, IoFault, LimitExceeded, TransportError};

use crate::peer::AskError;

/// How often, and after which pause, something is tried again whose connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Further tries.
    pub times: u32,
    /// Between two of them.
    pub pause: Duration,
}

impl Default for Retry {
    /// Five more tries, a second apart.
    fn default() -> Self {
        Self { times: 5, pause: Duration::from_secs(1) }
    }
}

impl Retry {
    /// Runs `attempt`, which connects and asks or hands over, until it succeeds or fails for another reason than its
    /// connection. An address where nobody can be reached, or nobody says a word, at first is not tried again.
    ///
    /// # Errors
    /// The last error.
    pub async fn run<T>(self, mut attempt: impl AsyncFnMut() -> Result<T, AskError>) -> Result<T, AskError> {
        let mut tries = 0;
        loop {
            match attempt().await {
                Err(error) if tries == 0 && is_unreachable(&error) => return Err(error),
                Err(error) if tries < self.times && error.is_worth_another_try() => {
                    tracing::warn!(%error, "the connection failed; trying again");
                    tries += 1;
                    tokio::time::sleep(self.pause).await;
                }
                outcome => return outcome,
            }
        }
    }
}

fn is_unreachable(error: &AskError) -> bool {
    matches!(
        error,
        AskError::Transport(
            TransportError::Io(IoFault::Unreachable { .. } | IoFault::Lookup { .. } | IoFault::Bind { .. })
                | TransportError::Limit(LimitExceeded::Deadline {
                    which: Deadline::Connect | Deadline::Handshake,
                    ..
                })
        )
    )
}
