//! Trying again on another connection.

use std::io::ErrorKind;
use std::time::Duration;

use avp_transport::{Deadline, IoFault, LimitExceeded, TransportError};

use crate::ask_error::AskError;

/// The longest pause between two tries. A peer that wants to be left alone for longer is.
const LONGEST: Duration = Duration::from_secs(30);

/// How often, and after which pauses, something is tried again whose connection failed, or whose peer was busy or not there
/// yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Further tries.
    pub times: u32,
    /// Before the first of them; before each next it is twice as long, up to 30 s, and up to a quarter shorter or longer,
    /// so that those whom a peer turned away do not all come back at once. Longer where the peer asks for that.
    pub pause: Duration,
}

impl Default for Retry {
    /// Five more tries within about 8 seconds.
    fn default() -> Self {
        Self { times: 5, pause: Duration::from_millis(250) }
    }
}

impl Retry {
    /// Runs `attempt`, which connects and asks or hands over, until it succeeds or fails for good. An address whose name
    /// cannot be looked up, that cannot be reached, or where nobody says a word, is not tried again unless somebody was
    /// there before.
    ///
    /// # Errors
    /// The last error.
    pub async fn run<T>(self, attempt: impl AsyncFnMut() -> Result<T, AskError>) -> Result<T, AskError> {
        self.run_telling(attempt, |_| ()).await
    }

    /// As [`run`](Self::run); `on` hears of each failure after which it is tried again.
    ///
    /// # Errors
    /// The last error.
    pub async fn run_telling<T>(
        self,
        mut attempt: impl AsyncFnMut() -> Result<T, AskError>,
        mut on: impl FnMut(&AskError),
    ) -> Result<T, AskError> {
        let mut tries = 0;
        let mut was_there = false;
        loop {
            let error = match attempt().await {
                Err(error) if tries < self.times && error.is_worth_another_try() => error,
                outcome => return outcome,
            };
            was_there |= !is_nobody(&error);
            let pause = self.pause_before(tries).max(error.retry_after().unwrap_or_default());
            if pause > LONGEST || !was_there && !may_come(&error) {
                return Err(error);
            }
            tracing::warn!(%error, "trying again");
            on(&error);
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    fn pause_before(&self, tries: u32) -> Duration {
        let doubled = self.pause.saturating_mul(2_u32.saturating_pow(tries)).min(LONGEST.mul_f64(0.8));
        doubled.mul_f64(0.75 + rand::random::<f64>() / 2.0)
    }
}

/// Whether nothing tells that there is anybody at the address.
fn is_nobody(error: &AskError) -> bool {
    let AskError::Transport(error) = error else { return false };
    matches!(
        error,
        TransportError::Io(IoFault::Unreachable { .. } | IoFault::Lookup { .. } | IoFault::Bind { .. })
            | TransportError::Limit(
                LimitExceeded::NoAnswer { .. }
                    | LimitExceeded::Deadline { which: Deadline::Connect | Deadline::Handshake, .. }
            )
    )
}

/// Whether the machine answered that nobody listens: somebody may soon.
fn may_come(error: &AskError) -> bool {
    let AskError::Transport(TransportError::Io(IoFault::Unreachable { source, .. })) = error else {
        return false;
    };
    matches!(source.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset | ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use avp_transport::{HttpRefusal, Incompatible};
    use avp_wire::ErrorCode;

    use super::*;

    fn unreachable(kind: ErrorKind) -> AskError {
        let url = "avp+tcp://127.0.0.1:1".parse().unwrap();
        AskError::Transport(IoFault::Unreachable { url, source: kind.into() }.into())
    }

    fn busy() -> AskError {
        AskError::Refused { code: Some(ErrorCode::Busy), message: "full".into() }
    }

    fn refused_over_http(status: u16, code: ErrorCode, seconds: u64) -> AskError {
        let mut refusal = HttpRefusal::with_status(status, "later");
        (refusal.code, refusal.retry_after) = (Some(code), Some(Duration::from_secs(seconds)));
        AskError::Transport(Incompatible::Refused { peer: "p".into(), refusal }.into())
    }

    fn silent() -> AskError {
        let after = Duration::from_secs(10);
        AskError::Transport(LimitExceeded::NoAnswer { host: "h".into(), port: 1, after }.into())
    }

    /// How often it is tried in all, where each try fails as `errors` say and the last of them for ever, and how long that
    /// takes.
    async fn tries(errors: &[fn() -> AskError]) -> (usize, Duration) {
        let (count, start) = (Cell::new(0), tokio::time::Instant::now());
        let attempt = async || {
            let error = errors[count.get().min(errors.len() - 1)];
            count.set(count.get() + 1);
            Err::<(), _>(error())
        };
        Retry::default().run(attempt).await.unwrap_err();
        (count.get(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_busy_or_not_there_yet_is_tried_again_for_some_seconds() {
        let errors: [fn() -> AskError; 5] = [
            busy,
            || unreachable(ErrorKind::ConnectionRefused),
            || unreachable(ErrorKind::NotFound),
            || AskError::Closed,
            || refused_over_http(503, ErrorCode::Busy, 1),
        ];
        for error in errors {
            let (count, time) = tries(&[error]).await;
            assert_eq!(count, 6, "{}", error());
            assert!(time > Duration::from_secs(5) && time < Duration::from_secs(12), "{}: {time:?}", error());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_get_better_is_told_at_once() {
        let errors: [fn() -> AskError; 4] = [
            || unreachable(ErrorKind::PermissionDenied),
            silent,
            || AskError::NoSlabs,
            || refused_over_http(503, ErrorCode::Busy, 3600),
        ];
        for error in errors {
            assert_eq!(tries(&[error]).await.0, 1, "{}", error());
        }
        let (count, _) = tries(&[|| AskError::Closed, silent]).await;
        assert_eq!(count, 6, "somebody was there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_when_to_come_back_is_left_alone_until_then() {
        let (count, time) = tries(&[|| refused_over_http(503, ErrorCode::Busy, 20)]).await;
        assert_eq!((count, time.as_secs()), (6, 100));
    }
}
