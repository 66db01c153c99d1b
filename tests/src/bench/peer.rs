//! The Python side of a comparison: a child process that measures what it is asked, round by round.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::report::root;

/// A script of `tests/python` that answers each line of JSON by one line of JSON.
pub(crate) struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `script` with the interpreter `python`.
    pub(crate) fn start(python: &Path, script: &str) -> Result<Self> {
        Self::spawn(Command::new(python), python, script)
    }

    /// The same, where the libraries under NumPy and torch have one thread if `threads` is 1, else as many as they take.
    pub(crate) fn start_with(python: &Path, script: &str, threads: usize) -> Result<Self> {
        let mut command = Command::new(python);
        if threads == 1 {
            let names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"];
            command.envs(names.map(|name| (name, "1")));
        }
        Self::spawn(command, python, script)
    }

    fn spawn(mut command: Command, python: &Path, script: &str) -> Result<Self> {
        let path = root().join("tests/python").join(script);
        let mut child = command
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {} for {script}", python.display()))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{script} has no pipes");
        };
        Ok(Self { child, requests, answers: BufReader::new(answers) })
    }

    /// Asks one thing.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.requests, "{request}")?;
        self.requests.flush()?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the Python side ended; what it wrote above says why");
        }
        let answer: Value = serde_json::from_str(&line).context("reading the Python side's answer")?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => bail!("the Python side says: {error}"),
            None => Ok(answer),
        }
    }

    /// Asks for seconds, which is how most answers come.
    pub(crate) fn seconds(&mut self, request: &Value) -> Result<f64> {
        let answer = self.ask(request)?;
        answer.get("seconds").and_then(Value::as_f64).context("the Python side gave no seconds")
    }

    /// The same, and then a rest: threads of its matrix products wait for more without sleeping.
    pub(crate) fn seconds_and_rest(&mut self, request: &Value) -> Result<f64> {
        let seconds = self.seconds(request);
        std::thread::sleep(Duration::from_millis(250));
        seconds
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It is waiting for a request; nothing of it is worth keeping.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
