//! The second agent: this program once more, as a process of its own.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::args::EngineArgs;

/// Time for the process to load its model and listen.
const START: Duration = Duration::from_secs(300);
/// Time for it to end.
const STOP: Duration = Duration::from_secs(10);

/// A process that is loading its model.
pub(crate) struct SecondAgent(Child);

/// A process that listens.
pub(crate) struct Listening {
    child: Child,
    url: String,
}

#[derive(Deserialize)]
struct Announcement {
    listening: Option<String>,
    error: Option<String>,
}

impl SecondAgent {
    /// Starts it with the model and options of its engine.
    pub(crate) fn start(model: &str, engine: &EngineArgs, serve_args: &[OsString]) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command
            .args(["--json", "serve", "--until-stdin-closes", "--require-verified", "--name", "answerer"])
            .args(["--model", model])
            .args(engine.to_args())
            .args(serve_args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        Ok(Self(command.spawn().context("cannot start the second agent")?))
    }

    /// Waits until it listens.
    pub(crate) async fn listening(self) -> Result<Listening> {
        let mut child = self.0;
        let stdout = child.stdout.take().context("the second agent has no output")?;
        let mut line = String::new();
        let read = timeout(START, BufReader::new(stdout).read_line(&mut line)).await;
        read.context("the second agent took too long to load its model")??;
        match serde_json::from_str(&line) {
            Ok(Announcement { listening: Some(url), .. }) => Ok(Listening { child, url }),
            Ok(Announcement { error: Some(error), .. }) => bail!("the second agent: {error}"),
            _ => bail!("the second agent ended before it listened; try `avp serve` by itself"),
        }
    }
}

impl Listening {
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Closes its input, on which it ends.
    pub(crate) async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let ended = timeout(STOP, self.child.wait()).await.context("the second agent did not end")??;
        if !ended.success() {
            bail!("the second agent ended with {ended}");
        }
        Ok(())
    }
}
