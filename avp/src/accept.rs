//! Accepting connections, each into a session of its own.

use std::future::Future;
use std::time::Duration;

use avp_transport::{Connection, Listener, TransportError};
use tokio::task::JoinSet;

/// How often transfers are looked over whose time is up.
const SWEEP: Duration = Duration::from_secs(10);

/// Runs `session` for each connection until `stop` is ready; then open sessions end too. A failing session only ends
/// itself. `sweep` is called now and then.
pub(crate) async fn accept<S>(
    listener: &dyn Listener,
    stop: impl Future<Output = ()> + Send,
    sweep: impl Fn(),
    session: impl Fn(Connection) -> S,
) -> Result<(), TransportError>
where
    S: Future<Output = Result<(), TransportError>> + Send + 'static,
{
    let mut sessions = JoinSet::new();
    let mut clock = tokio::time::interval(SWEEP);
    tokio::pin!(stop);
    loop {
        // Never kept waiting by the sessions: only what is accepted makes room among half-open connections.
        let connection = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted?,
            Some(_) = sessions.join_next() => continue,
            _ = clock.tick() => {
                sweep();
                continue;
            }
        };
        let peer = connection.peer().to_string();
        let serving = session(connection);
        sessions.spawn(async move {
            if let Err(error) = serving.await {
                tracing::debug!(%peer, %error, "session ended");
            }
        });
    }
    sessions.shutdown().await;
    Ok(())
}
