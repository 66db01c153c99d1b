//! The implementation under test: a process that answers a line with a line, and is started again when it fails to.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Map, Value, json};

use crate::compare::shortened;

/// A longer reply is garbage.
const MAX_REPLY: u64 = 256 << 20;

pub(crate) struct Testee {
    command: Vec<String>,
    timeout: Duration,
    running: Option<Running>,
    next_id: u64,
}

/// What the implementation says of itself.
pub(crate) struct About {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Whether its errors are the codes of docs/spec/errors.md, or only refusals.
    pub(crate) codes: bool,
}

pub(crate) enum Reply {
    Ok(Value),
    Error { code: String, detail: String },
    Unsupported(String),
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) what: String,
    pub(crate) detail: String,
}

impl Broken {
    fn new(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), detail: detail.into() }
    }
}

impl Testee {
    pub(crate) fn new(command: Vec<String>, timeout: Duration) -> Self {
        Self { command, timeout, running: None, next_id: 1 }
    }

    /// Starts it and asks who it is.
    pub(crate) fn describe(&mut self) -> Result<About> {
        let reply =
            self.ask("describe", Map::new()).map_err(|broken| anyhow!("{}: {}", broken.what, broken.detail));
        match reply.with_context(|| self.command.join(" "))? {
            Reply::Ok(about) => Ok(About {
                name: text(&about, "name").context("describe gives no name")?,
                version: text(&about, "version").context("describe gives no version")?,
                codes: about
                    .get("codes")
                    .and_then(Value::as_bool)
                    .context("describe does not say `codes`")?,
            }),
            _ => Err(anyhow!("it does not describe itself")),
        }
    }

    /// Its answer to one request, or what is wrong with it; then it is started anew for the next.
    pub(crate) fn ask(&mut self, op: &str, mut fields: Map<String, Value>) -> Result<Reply, Broken> {
        let id = self.next_id;
        self.next_id += 1;
        fields.insert("id".to_owned(), id.into());
        fields.insert("op".to_owned(), op.into());
        let request = Value::Object(fields).to_string();
        let mut running = match self.running.take() {
            Some(running) => running,
            None => Running::start(&self.command)?,
        };
        let line = running.exchange(request, self.timeout)?;
        let reply = reply(&line, id)?;
        self.running = Some(running);
        Ok(reply)
    }
}

fn reply(line: &[u8], id: u64) -> Result<Reply, Broken> {
    let garbage = |why: &str| {
        let line = shortened(&String::from_utf8_lossy(line), 80);
        Broken::new("a reply that is garbage", format!("{why}: {line}"))
    };
    let reply: Value = serde_json::from_slice(line).map_err(|_| garbage("not JSON"))?;
    if reply.get("id") != Some(&json!(id)) {
        return Err(garbage(&format!("not of the request with id {id}")));
    }
    match (reply.get("ok"), reply.get("error"), reply.get("unsupported")) {
        (Some(result @ Value::Object(_)), None, None) => Ok(Reply::Ok(result.clone())),
        (None, Some(Value::String(code)), None) => {
            Ok(Reply::Error { code: code.clone(), detail: text(&reply, "detail").unwrap_or_default() })
        }
        (None, None, Some(Value::String(why))) => Ok(Reply::Unsupported(why.clone())),
        _ => Err(garbage("neither `ok` with an object nor `error` nor `unsupported` with a text")),
    }
}

fn text(object: &Value, field: &str) -> Option<String> {
    object.get(field).and_then(Value::as_str).map(str::to_owned)
}

/// A started process, with a thread for each of its pipes: it must not be able to block the runner.
struct Running {
    child: Child,
    requests: Sender<String>,
    replies: Receiver<Vec<u8>>,
    last_words: Arc<Mutex<String>>,
}

impl Running {
    fn start(command: &[String]) -> Result<Self, Broken> {
        let (program, arguments) =
            command.split_first().ok_or(Broken::new("no process", "no program is named"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Broken::new("no process", format!("{program} cannot be started: {error}")))?;
        let (requests, to_write) = mpsc::channel();
        let (read, replies) = mpsc::channel();
        let last_words = Arc::default();
        if let Some(stdin) = child.stdin.take() {
            thread::spawn(move || write_lines(stdin, &to_write));
        }
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || read_lines(stdout, &read));
        }
        if let Some(stderr) = child.stderr.take() {
            let last_words = Arc::clone(&last_words);
            thread::spawn(move || listen(stderr, &last_words));
        }
        Ok(Self { child, requests, replies, last_words })
    }

    fn exchange(&mut self, request: String, timeout: Duration) -> Result<Vec<u8>, Broken> {
        // Where the writer is gone, so is the process: the replies tell.
        let _ = self.requests.send(request);
        match self.replies.recv_timeout(timeout) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                Err(Broken::new(format!("no answer within {} s", timeout.as_secs_f64()), ""))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.died()),
        }
    }

    fn died(&mut self) -> Broken {
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        // Its last words may come a moment after its end.
        thread::sleep(Duration::from_millis(20));
        let last = self.last_words.lock().map(|last| last.clone()).unwrap_or_default();
        Broken::new(format!("an end with {status}"), shortened(&last, 160))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_lines(mut stdin: ChildStdin, requests: &Receiver<String>) {
    for mut request in requests {
        request.push('\n');
        if stdin.write_all(request.as_bytes()).and_then(|()| stdin.flush()).is_err() {
            break;
        }
    }
}

fn read_lines(stdout: ChildStdout, replies: &Sender<Vec<u8>>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        match (&mut stdout).take(MAX_REPLY).read_until(b'\n', &mut line) {
            Ok(1..) if replies.send(line).is_ok() => {}
            _ => break,
        }
    }
}

/// Keeps the last line that says something.
fn listen(stderr: ChildStderr, last_words: &Mutex<String>) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if !line.is_empty()
            && let Ok(mut last) = last_words.lock()
        {
            *last = line;
        }
    }
}
