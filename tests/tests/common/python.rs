//! A Python process beside the test, spoken to in JSON lines (tests/python/lines.py).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// The Python SDK in a process of its own.
pub(crate) struct Python {
    process: Child,
    /// Closed to end the process.
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Python {
    /// Starts `tests/python/SCRIPT` with the interpreter that `AVP_PYTHON` names.
    pub(crate) fn start(script: &str) -> Self {
        let python = std::env::var_os("AVP_PYTHON").unwrap_or_else(|| {
            panic!(
                "AVP_PYTHON is not set: run `cargo xtask interop`, which makes a virtual environment, or name the \
                 interpreter of one with avp==0.6.2"
            )
        });
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/python").join(script);
        let mut process = Command::new(&python)
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("AVP_PYTHON is {}, which does not start: {e}", python.display()));
        let requests = process.stdin.take();
        let replies = BufReader::new(process.stdout.take().unwrap());
        Self { process, requests, replies }
    }

    /// Runs an operation; `arguments` is an object. The error is what Python raised.
    pub(crate) fn ask(&mut self, op: &str, mut arguments: Value) -> Result<Value, String> {
        arguments["op"] = op.into();
        writeln!(self.requests.as_ref().unwrap(), "{arguments}")
            .expect("the Python process has ended; see its output above");
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the Python process ended at {op}; see its output above");
        let mut reply: Value = serde_json::from_str(&line).unwrap();
        match reply.get("error") {
            Some(error) => Err(format!("{}: {}", error["type"], error["message"])),
            None => Ok(reply["ok"].take()),
        }
    }

    /// Runs an operation that must work.
    pub(crate) fn call(&mut self, op: &str, arguments: Value) -> Value {
        self.ask(op, arguments).unwrap_or_else(|error| panic!("Python, {op}: {error}"))
    }

    /// Runs an operation without arguments that must work.
    pub(crate) fn get(&mut self, op: &str) -> Value {
        self.call(op, json!({}))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.requests.take());
        let _ = self.process.wait();
    }
}
