//! What goes to the terminal.

use std::error::Error;
use std::io::{self, Write};

use serde_json::{Value, json};

/// Prints one JSON object as one line.
pub(crate) fn object(value: &Value) -> io::Result<()> {
    line(&value.to_string())
}

/// Prints one line.
pub(crate) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Prints text as it comes.
pub(crate) fn piece(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a note beside the result.
pub(crate) fn note(text: &str) {
    // Nothing is left to tell it to if stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints why the program fails: one line, or one JSON object.
pub(crate) fn error(error: &anyhow::Error, json: bool) {
    let text = one_line(error.as_ref());
    note(&format!("error: {text}"));
    if json {
        let _ = object(&json!({ "error": text }));
    }
}

/// The error and its causes, without those that their parents already quote.
fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = inner.source();
    }
    text.replace('\n', " ")
}

/// Bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}
