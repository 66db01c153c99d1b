//! How to load a model.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use avp_wire::KvDtype;

/// How far loading is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// What is being done: `weights`, `fingerprint`, or the name of the file that is being downloaded.
    pub what: Cow<'static, str>,
    /// Bytes done.
    pub done: u64,
    /// Bytes in total, 0 where unknown.
    pub total: u64,
}

/// Called while a model is being loaded, on the loading thread.
pub type ProgressFn = Arc<dyn Fn(&LoadProgress) + Send + Sync>;

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this ordinal; needs the feature `cuda`.
    Cuda(usize),
}

/// Options of [`CandleBackend::load`](crate::CandleBackend::load). The default loads on the CPU in f32.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// Type of weights and KV cache; f32 if none. Weights stored in another type are converted once.
    pub dtype: Option<KvDtype>,
    /// Where to compute.
    pub device: Device,
    /// Told about progress.
    pub progress: Option<ProgressFn>,
    /// Where downloads of the hub and fingerprints of checkpoints are kept. If none, the hub's own cache folder
    /// (`HF_HOME`) and `avp` in the user's cache folder.
    pub cache_dir: Option<PathBuf>,
    /// Name that the model announces; if none, the hub id or the folder's name.
    pub model_id: Option<String>,
}

impl std::fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadOptions")
            .field("dtype", &self.dtype)
            .field("device", &self.device)
            .field("progress", &self.progress.is_some())
            .field("cache_dir", &self.cache_dir)
            .field("model_id", &self.model_id)
            .finish()
    }
}
