//! Contexts in files: written whole or not at all, and readable by their head alone.

mod hidden;
mod inspect;
mod read;
mod sink;
mod slabs;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use avp_backend::{ContextError, HiddenError};
use avp_wire::slab::SlabError;
use avp_wire::{DecodeError, EncodeError};

use crate::outgoing::SourceError;

pub use hidden::{Saved, open_saved, save_hidden};
pub use inspect::{Inspection, inspect};
pub use read::{load_context, open_context, read_frame};
pub(crate) use sink::FileSink;
pub use write::save_context;

/// Why a context file could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file system refused. Nothing was left behind.
    #[error("{}: {}", path.display(), explain(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a whole, valid frame.
    #[error("{} is no valid context file: {source}; make it again with `avp think`, or copy it again", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong with its bytes.
        source: DecodeError,
    },
    /// The frame is not a context for this model.
    #[error("{}: {source}", path.display())]
    Context {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: ContextError,
    },
    /// The frame holds no hidden states.
    #[error("{}: {source}", path.display())]
    Hidden {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HiddenError,
    },
    /// The slabs of the file are not those that its manifest speaks of.
    #[error("{} is no whole context: {source}; copy it again", path.display())]
    Slabs {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: SlabError,
    },
    /// A frame cannot be written.
    #[error("{}: {source}", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: EncodeError,
    },
}

/// What the system said, and what to do.
fn explain(error: &io::Error) -> String {
    let kind = error.kind();
    let advice = match kind {
        io::ErrorKind::NotFound => {
            return "there is no such file or folder; check the path, and that its folder exists".to_owned();
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "choose a place that you may read and write"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free some space, or choose another place"
        }
        io::ErrorKind::IsADirectory => "give a file, not a folder",
        _ => return error.to_string(),
    };
    format!("{kind}; {advice}")
}

impl FileError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }

    fn decode(path: &Path) -> impl FnOnce(DecodeError) -> Self + '_ {
        |source| Self::Decode { path: path.to_owned(), source }
    }

    fn context(path: &Path) -> impl FnOnce(ContextError) -> Self + '_ {
        |source| Self::Context { path: path.to_owned(), source }
    }

    fn slabs(path: &Path) -> impl FnOnce(SlabError) -> Self + '_ {
        |source| Self::Slabs { path: path.to_owned(), source }
    }

    fn source(path: &Path, source: SourceError) -> Self {
        match source {
            SourceError::Context(source) => Self::Context { path: path.to_owned(), source },
            SourceError::Slab(source) => Self::Slabs { path: path.to_owned(), source },
            SourceError::File(source) => *source,
        }
    }

    fn encode(path: &Path) -> impl FnOnce(EncodeError) -> Self + '_ {
        |source| Self::Encode { path: path.to_owned(), source }
    }
}
