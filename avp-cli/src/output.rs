//! What goes to the terminal.

use std::error::Error;
use std::io::{self, Write};

use serde_json::{Value, json};

/// Longest error that is printed, in characters: a file or a peer may put any text into one.
const MAX_ERROR: usize = 1000;

/// Prints one JSON object as one line.
pub(crate) fn object(value: &Value) -> io::Result<()> {
    line(&json_line(value))
}

/// JSON that no terminal acts on: serde escapes the controls below U+0020 only.
fn json_line(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(is_late_control) {
        return text;
    }
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        if is_late_control(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
        safe
    })
}

fn is_late_control(c: char) -> bool {
    ('\u{7f}'..='\u{9f}').contains(&c)
}

/// Text of a file or a peer as one line for a terminal, which must not act on it.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// Text of a peer for a terminal, with its line breaks.
pub(crate) fn printable_lines(text: &str) -> String {
    let text = text.replace("\r\n", "\n");
    text.split('\n')
        .map(|line| line.split('\t').map(printable).collect::<Vec<_>>().join("\t"))
        .collect::<Vec<_>>()
        .join("\n")
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
    short_line(&text)
}

/// Text that a peer may have put together as one line of a length that can be read.
pub(crate) fn short_line(text: &str) -> String {
    let mut line = printable(&text.trim_end().replace("\r\n", " ").replace(['\n', '\t'], " "));
    if let Some((end, _)) = line.char_indices().nth(MAX_ERROR) {
        line.truncate(end);
        line.push_str("..");
    }
    line
}

/// Bytes for people.
pub(crate) fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "\u{1b}[31mred\u{1b}]0;title\u{7}\r\nnext\tcolumn \u{9b}31m\u{8}\u{7f}";

    fn acts_on_a_terminal(text: &str) -> bool {
        text.chars().any(|c| c.is_control() && !['\n', '\t'].contains(&c))
    }

    #[test]
    fn an_error_is_one_short_line_whatever_a_peer_put_into_it() {
        let line = one_line(anyhow::anyhow!("{HOSTILE}").as_ref());
        assert!(
            !line.contains(char::is_control) && line.contains("red") && line.contains(" next column"),
            "{line:?}"
        );
        let long = one_line(anyhow::anyhow!("{}", "é".repeat(5000)).as_ref());
        assert_eq!(long.chars().count(), MAX_ERROR + 2);
    }

    #[test]
    fn an_answer_keeps_its_lines_and_columns_and_loses_what_a_terminal_acts_on() {
        let shown = printable_lines(HOSTILE);
        assert!(!acts_on_a_terminal(&shown) && shown.contains("\nnext\tcolumn"), "{shown:?}");
        assert_eq!(printable_lines("Grüße, 千问 😀\n\n"), "Grüße, 千问 😀\n\n");
    }

    #[test]
    fn json_says_the_same_and_moves_no_terminal() {
        let line = json_line(&json!({ "text": HOSTILE }));
        assert!(!line.contains(char::is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["text"], HOSTILE);
    }
}
