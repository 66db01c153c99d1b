//! A session that the peer refuses after the handshake (docs/spec/exchange.md, 1.3): it says so beside all transfers, while
//! this side may be sending on one of them.

use std::future::Future;
use std::time::Duration;

use avp_handshake::Reject;
use avp_transport::Transfer;
use tokio::time::timeout;

use crate::ask_error::AskError;

/// How long a refusal may be on its way that explains why the connection broke.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What `work` on another transfer gives, unless the session is refused meanwhile.
pub(crate) async fn unless_refused<T>(
    beside: &mut Transfer,
    work: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    let outcome = tokio::select! {
        biased;
        outcome = work => outcome,
        Some(error) = refusal(beside) => return Err(error),
    };
    match outcome {
        Ok(done) => Ok(done),
        Err(error) => Err(explained(beside, error).await),
    }
}

/// What the peer said before the connection broke by `error`, where it said why.
pub(crate) async fn explained(beside: &mut Transfer, error: AskError) -> AskError {
    if !error.is_worth_another_try() {
        return error;
    }
    match timeout(LAST_WORD, refusal(beside)).await {
        Ok(Some(refused @ AskError::Refused { .. })) => refused,
        _ => error,
    }
}

/// The refusal of the session, or what ends its connection; `None` where the peer ends it in good order.
async fn refusal(beside: &mut Transfer) -> Option<AskError> {
    loop {
        match beside.recv().await {
            Ok(Some(frame)) => {
                if let Some(reject) = Reject::from_frame(&frame) {
                    return Some(reject.into());
                }
            }
            Ok(None) => return None,
            // Nobody speaks here for as long as all is well, and a frame that was damaged is not the connection's end.
            Err(error) if error.is_recoverable() => {}
            Err(error) => return Some(error.into()),
        }
    }
}
