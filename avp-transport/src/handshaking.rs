//! Accepted connections whose transport still shakes hands (TLS, QUIC, the preamble of shared memory, which HTTP it is):
//! each in a task of its own, so that a peer that dawdles holds up nobody.

use std::fmt;
use std::future::Future;

use tokio::sync::Mutex;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Duration, timeout};

use crate::error::{Deadline, LimitExceeded};
use crate::half_open::{HalfOpen, Step};
use crate::link::Result;
use crate::telemetry::{Side, failed, made_room};
use crate::url::Scheme;

/// The tasks of one listener. Dropping it ends them.
pub(crate) struct Handshaking<T> {
    scheme: Scheme,
    tasks: Mutex<JoinSet<Option<(T, HalfOpen)>>>,
}

impl<T: Send + 'static> Handshaking<T> {
    /// For connections of this scheme.
    pub(crate) fn new(scheme: Scheme) -> Self {
        Self { scheme, tasks: Mutex::default() }
    }

    /// Waits for the next connection that is ready, and gives it with its place among the half-open ones; what `next` gives
    /// is started meanwhile. Dropping the future loses neither accepted nor finished connections, if dropping `next`'s does
    /// not.
    pub(crate) async fn accept<N, S>(&self, next: impl Fn() -> N, deadline: Duration) -> (T, HalfOpen)
    where
        N: Future<Output = Option<(HalfOpen, S)>>,
        S: Future<Output = Result<T>> + Send + 'static,
    {
        let mut tasks = self.tasks.lock().await;
        loop {
            tokio::select! {
                Some(done) = tasks.join_next() => {
                    if let Ok(Some(ready)) = done {
                        return ready;
                    }
                }
                started = next() => if let Some((place, handshake)) = started {
                    tasks.spawn(finish(self.scheme, place, handshake, deadline));
                    // Beginning one may cost much (QUIC's cryptography), and more may be here already.
                    yield_now().await;
                },
            }
        }
    }
}

/// The connection; `None` where the peer failed, dawdled, or had to make room.
async fn finish<T>(
    scheme: Scheme,
    place: HalfOpen,
    handshake: impl Future<Output = Result<T>> + Send,
    deadline: Duration,
) -> Option<(T, HalfOpen)> {
    let outcome = tokio::select! {
        // A peer that has done its part is not dropped for one that has not.
        biased;
        outcome = timeout(deadline, handshake) => outcome,
        () = place.dropped() => {
            made_room(scheme);
            return None;
        }
    };
    let outcome = outcome.unwrap_or_else(|_| {
        let (peer, which) = ("a peer".to_owned(), Deadline::Handshake);
        Err(LimitExceeded::Deadline { peer, which, after: deadline, got: 0, expected: 0 }.into())
    });
    let ready = outcome
        .inspect_err(|error| {
            failed(scheme, Side::Server, error);
            tracing::debug!(transport = %scheme, %error, "a peer failed in the transport's handshake");
        })
        .ok()?;
    place.progress().mark(Step::Secured);
    Some((ready, place))
}

impl<T> fmt::Debug for Handshaking<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshaking").finish_non_exhaustive()
    }
}
