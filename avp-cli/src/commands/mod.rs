//! One module per command.

pub(crate) mod ask;
pub(crate) mod bench;
pub(crate) mod cert;
pub(crate) mod generate;
pub(crate) mod inspect;
pub(crate) mod map;
pub(crate) mod model;
pub(crate) mod models;
pub(crate) mod recv;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod think;

use std::fmt::Display;

use anyhow::{Error, anyhow};
use avp::AskError;
use avp::transport::{IoFault, LimitExceeded, TransportError};

/// Why a command that connects has failed; where nobody listens, with the command that would.
pub(crate) fn failed(error: AskError, listener: impl Display) -> Error {
    match &error {
        AskError::Transport(
            TransportError::Io(IoFault::Unreachable { .. })
            | TransportError::Limit(LimitExceeded::NoAnswer { .. }),
        ) => anyhow!("{error} (`{listener}` starts one)"),
        _ => error.into(),
    }
}

/// Ready at Ctrl-C, at SIGTERM, or, where asked for, when whoever started this is gone.
pub(crate) async fn ended(until_stdin_closes: bool) {
    let stdin_closed = async {
        if !until_stdin_closes {
            std::future::pending::<()>().await;
        }
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated() => {}
        () = stdin_closed => {}
    }
}

#[cfg(unix)]
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn terminated() {
    std::future::pending().await
}
