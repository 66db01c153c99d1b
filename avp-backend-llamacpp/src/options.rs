//! How a model is loaded.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Type of the KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvType {
    /// Single precision. With flash attention llama.cpp still rounds keys and values to half precision as it reads them.
    F32,
    /// Half precision, llama.cpp's own default.
    #[default]
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits, in blocks of 32 with a scale. Needs flash attention.
    Q8,
}

/// Options of `LlamaCppBackend::load`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Type of the KV cache. f16.
    pub kv_type: KvType,
    /// Whether attention is computed without its matrix. Yes.
    pub flash_attention: bool,
    /// Positions of a sequence; the model's own number if none, and never more.
    pub context: Option<usize>,
    /// Layers on the GPU, where llama.cpp was built for one. None.
    pub gpu_layers: u32,
    /// Threads of a pass, no more than there are processors. If none, all of these, but for small models only as many as have enough to do.
    pub threads: Option<usize>,
    /// Name that the model announces; if none, the file's.
    pub model_id: Option<String>,
    /// Who tries a file that was not seen before, since a damaged one can end the process. Nobody by default: then only load
    /// files that you trust.
    pub probe: Option<Probe>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            kv_type: KvType::default(),
            flash_attention: true,
            context: None,
            gpu_layers: 0,
            threads: None,
            model_id: None,
            probe: None,
        }
    }
}

/// A program that tries files: it is run with `args` and the path of the file, calls `try_file`, and exits with 0, or says why
/// not on stderr and exits with another code.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// The program.
    pub program: PathBuf,
    /// What comes before the path.
    pub args: Vec<OsString>,
    /// Where it is kept which files were tried, by path, size, times and identity. Each is tried every time if none.
    pub cache_dir: Option<PathBuf>,
    /// How long a file may take; then the program is ended and the file refused. 120 s.
    pub patience: Duration,
}

impl Probe {
    /// `program`, run with `args` and the path.
    pub fn new(program: impl Into<PathBuf>, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { program: program.into(), args, cache_dir: None, patience: Duration::from_secs(120) }
    }
}
