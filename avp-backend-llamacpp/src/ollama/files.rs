//! Small files, read within a limit.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use super::error::OllamaError;

/// Most bytes of a manifest, and of each text that comes with a model.
pub(super) const MAX_TEXT: u64 = 1 << 20;

/// Why a text could not be read.
pub(super) enum TextFault {
    Io(io::Error),
    Problem(String),
}

impl TextFault {
    /// The error of a file at `path`, whose problems are those of `kind`.
    pub(super) fn of(self, path: &Path, kind: impl FnOnce(String) -> OllamaError) -> OllamaError {
        match self {
            Self::Io(source) => OllamaError::Io { path: path.to_owned(), source },
            Self::Problem(problem) => kind(problem),
        }
    }
}

/// The text of a regular file of at most [`MAX_TEXT`] bytes.
pub(super) fn read_text(path: &Path) -> Result<String, TextFault> {
    // Asked before it is opened: opening a pipe waits for somebody to write into it.
    if !fs::metadata(path).map_err(TextFault::Io)?.is_file() {
        return Err(TextFault::Problem("is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(TextFault::Io)?;
    file.take(MAX_TEXT + 1).read_to_end(&mut bytes).map_err(TextFault::Io)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > MAX_TEXT) {
        return Err(TextFault::Problem(format!("is longer than {MAX_TEXT} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| TextFault::Problem("is not UTF-8".to_owned()))
}
