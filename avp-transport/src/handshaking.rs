//! Accepted connections whose transport still shakes hands (TLS, QUIC, the preamble of shared memory): each in a task
//! of its own, so that a peer that dawdles holds up nobody.

use std::fmt;
use std::future::Future;

use tokio::sync::Mutex;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Duration, timeout};

use crate::connection::Connection;
use crate::half_open::HalfOpen;
use crate::link::Result;

/// The tasks of one listener. Dropping it ends them.
#[derive(Default)]
pub(crate) struct Handshaking {
    tasks: Mutex<JoinSet<Option<Connection>>>,
}

impl Handshaking {
    /// Waits for the next connection that is ready; what `next` gives is started meanwhile. Dropping the future loses
    /// neither accepted nor finished connections, if dropping `next`'s does not.
    pub(crate) async fn accept<N, S>(&self, next: impl Fn() -> N, deadline: Duration) -> Connection
    where
        N: Future<Output = Option<(HalfOpen, S)>>,
        S: Future<Output = Result<Connection>> + Send + 'static,
    {
        let mut tasks = self.tasks.lock().await;
        loop {
            tokio::select! {
                Some(done) = tasks.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                started = next() => if let Some((place, handshake)) = started {
                    tasks.spawn(finish(place, handshake, deadline));
                    // Beginning one may cost much (QUIC's cryptography), and more may be here already.
                    yield_now().await;
                },
            }
        }
    }
}

/// The connection; `None` where the peer failed, dawdled, or had to make room.
async fn finish(
    place: HalfOpen,
    handshake: impl Future<Output = Result<Connection>> + Send,
    deadline: Duration,
) -> Option<Connection> {
    let outcome = tokio::select! {
        // A peer that has done its part is not dropped for one that has not.
        biased;
        outcome = timeout(deadline, handshake) => outcome.ok()?,
        () = place.dropped() => return None,
    };
    match outcome {
        Ok(connection) => Some(connection.with_half_open(place)),
        Err(error) => {
            tracing::debug!(%error, "a peer failed in the transport's handshake");
            None
        }
    }
}

impl fmt::Debug for Handshaking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshaking").finish_non_exhaustive()
    }
}
