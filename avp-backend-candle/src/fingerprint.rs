//! The fingerprint of a checkpoint, kept between runs.

use std::path::{Path, PathBuf};

use avp_backend::BackendError;
use avp_handshake::fingerprint::{Fingerprint, FingerprintCache, FingerprintError};

use crate::config::json::invalid;
use crate::options::{LoadOptions, LoadProgress};

/// The fingerprint (`avp.weights`) of the safetensors files at `paths`, hex. Hashing reads them whole, so it is
/// done once and kept as long as path, size and modification time stay.
pub(crate) fn of_weights(paths: &[&Path], options: &LoadOptions) -> Result<String, BackendError> {
    let progress = |done, total| {
        if let Some(progress) = &options.progress {
            progress(&LoadProgress { what: "fingerprint".into(), done, total });
        }
    };
    let fingerprint = match cache_dir(options) {
        Some(dir) => FingerprintCache::new(dir).of_safetensors_with(paths, progress),
        None => Fingerprint::of_safetensors_with(paths, progress),
    };
    fingerprint.map(|f| f.to_string()).map_err(|e| match e {
        FingerprintError::Io { path, source } => BackendError::Io { path, source },
        FingerprintError::Header { path, source } => {
            invalid(&path, format!("is not a whole safetensors file ({source}); download it again"))
        }
        FingerprintError::Changed { path } => invalid(&path, "changed while it was read; try again"),
        other => invalid(paths.first().unwrap_or(&Path::new("model.safetensors")), other.to_string()),
    })
}

/// `fingerprints` in the given cache folder, else in `avp` in the user's.
fn cache_dir(options: &LoadOptions) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let user = || {
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(base.join("avp"))
    };
    options.cache_dir.clone().or_else(user).map(|dir| dir.join("fingerprints"))
}
