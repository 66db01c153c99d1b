//! What the cross-crate tests share.

#![allow(dead_code, reason = "each test binary uses a part")]

#[cfg(feature = "engine")]
pub(crate) mod demo;
pub(crate) mod frames;
pub(crate) mod mutate;
pub(crate) mod python;
pub(crate) mod random;

use std::path::{Path, PathBuf};

/// A file or folder of the workspace.
pub(crate) fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
