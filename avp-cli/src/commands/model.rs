//! Finding and loading models.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use avp::{
    Backend, BufferPool, LoadOptions, ModelInfo, TransportOptions, VerificationPolicy, describe_model,
    load_backend,
};

use crate::args::EngineArgs;
use crate::progress::Bar;

/// Loads the model that `name` says, with a progress bar.
pub(crate) fn load(name: &str, engine: &EngineArgs) -> Result<Arc<dyn Backend>> {
    let bar = Bar::default();
    let options = LoadOptions {
        dtype: Some(engine.dtype.into()),
        device: engine.device,
        progress: Some(bar.loading()),
        ..LoadOptions::default()
    };
    let backend = load_backend(&resolve(name), &options);
    bar.clear();
    backend.with_context(|| format!("cannot load the model `{name}`"))
}

/// What the model that `name` says is; its weights are not loaded.
pub(crate) fn describe(name: &str) -> Result<ModelInfo> {
    let bar = Bar::default();
    let options = LoadOptions { progress: Some(bar.loading()), ..LoadOptions::default() };
    let info = describe_model(&resolve(name), &options);
    bar.clear();
    info.with_context(|| format!("cannot read the model `{name}`"))
}

/// A demo model's name becomes its folder; anything else stays.
fn resolve(name: &str) -> String {
    let is_plain = !name.is_empty() && !name.contains(['/', '\\', ':']) && !Path::new(name).exists();
    let folder = demo_folder().map(|folder| folder.join(name)).filter(|f| is_plain && f.is_dir());
    folder.map_or_else(|| name.to_owned(), |f| f.display().to_string())
}

/// Where the demo models are: `AVP_MODELS`, `models` here, or `models` in the source tree.
pub(crate) fn demo_folder() -> Option<PathBuf> {
    let candidates = [
        env::var_os("AVP_MODELS").map(PathBuf::from),
        Some(PathBuf::from("models")),
        Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models")),
    ];
    candidates.into_iter().flatten().find(|folder| folder.join("questions").is_dir())
}

/// Where realignments are kept between runs.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    let own = env::var_os("AVP_CACHE_DIR").map(PathBuf::from);
    let xdg = || env::var_os("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("avp"));
    let home = || env::var_os("HOME").map(|dir| PathBuf::from(dir).join(".cache").join("avp"));
    own.or_else(xdg).or_else(home)
}

pub(crate) fn policy(require_verified: bool) -> VerificationPolicy {
    if require_verified { VerificationPolicy::Require } else { VerificationPolicy::Allow }
}

/// The process's pool, which connections use too, so that a buffer serves again whatever it held.
pub(crate) fn pool() -> BufferPool {
    TransportOptions::default().pool
}
