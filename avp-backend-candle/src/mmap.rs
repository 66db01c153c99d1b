//! Memory-mapped checkpoint files.
#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use avp_backend::BackendError;
use memmap2::Mmap;

/// Maps `path` for reading.
pub(crate) fn map(path: &Path) -> Result<Mmap, BackendError> {
    let io = |source| BackendError::Io { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io)?;
    // SAFETY: the mapping is read-only and private to this process. It holds while the checkpoint is loaded and
    // is dropped before the model is handed out, so the one duty left is the user's, as with any mapped file:
    // nobody may truncate or rewrite the checkpoint during those seconds.
    unsafe { Mmap::map(&file) }.map_err(io)
}
