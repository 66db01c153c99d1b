//! How a model is loaded, on whichever engine.

use std::fmt;
use std::path::PathBuf;

use avp_backend::BackendError;
use avp_backend_candle::{Device, LoadOptions, ProgressFn};
use avp_backend_llamacpp::{KvType, Probe};
use avp_wire::KvDtype;

use super::Engine;

/// Options of [`load_backend`](crate::load_backend) and [`describe_model`](crate::describe_model). Those without a value are
/// the engine's own choice; those that an engine does not have are errors ([`BackendError::NoSuchOption`]) and never left out
/// silently.
///
/// ```
/// use avp::{KvDtype, ModelOptions};
///
/// let mut options = ModelOptions::default();
/// options.dtype = Some(KvDtype::Bf16);
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ModelOptions {
    /// Name that the model announces; if none, the hub id, or what the folder or file says.
    pub model_id: Option<String>,
    /// Told about progress. llama.cpp maps its files and has none to tell.
    pub progress: Option<ProgressFn>,
    /// Where candle keeps downloads of the hub and fingerprints of checkpoints; if none, the hub's own cache folder (`HF_HOME`)
    /// and `avp` in the user's cache folder. A [`probe`](Self::probe) without a folder of its own keeps its marks there.
    pub cache_dir: Option<PathBuf>,

    /// candle: type of weights and KV cache; f32 if none. Weights stored in another type are converted once.
    pub dtype: Option<KvDtype>,
    /// candle: where to compute.
    pub device: Device,

    /// llama.cpp: type of the KV cache; f16 if none. Weights stay as the file has them.
    pub kv_type: Option<KvType>,
    /// llama.cpp: positions of a sequence; the model's own number if none, and never more.
    pub context_size: Option<usize>,
    /// llama.cpp: layers on the GPU, where it was built for one; none if none.
    pub gpu_layers: Option<u32>,
    /// llama.cpp: threads of a pass; if none, all processors, but fewer for small models.
    pub threads: Option<usize>,
    /// llama.cpp: whether attention is computed without its matrix; yes if none. A KV cache of q8_0 needs it.
    pub flash_attention: Option<bool>,
    /// llama.cpp: a program that tries a file that was not seen before, because a damaged one can end the process. It is run
    /// with [`args`](Probe::args) and the file's path, calls [`try_model`](crate::try_model), and exits with 0, or with another
    /// code after writing why to stderr: `avp probe-gguf` is one, and an application can be its own. If none, nothing is tried;
    /// then only load files that you trust. candle needs none and ignores it.
    ///
    /// ```
    /// use avp::{ModelOptions, Probe};
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// // In `main`, before anything else: `if let [_, flag, file] = args { if flag == "--probe" { .. try_model(file) .. } }`
    /// let mut options = ModelOptions::default();
    /// options.probe = Some(Probe::new(std::env::current_exe()?, ["--probe"]));
    /// # Ok(()) }
    /// ```
    pub probe: Option<Probe>,
    /// Ollama's models: before loading, ask the Ollama server that runs here (`OLLAMA_HOST`) to let go of its own copy. Where
    /// it does not, that is told as a `tracing` warning.
    pub ollama_unload: bool,
}

impl ModelOptions {
    /// As candle takes them.
    pub(super) fn for_candle(&self) -> Result<LoadOptions, BackendError> {
        let given = [
            (self.kv_type.is_some(), "kv_type", Some("dtype")),
            (self.context_size.is_some(), "context_size", None),
            (self.gpu_layers.is_some(), "gpu_layers", Some("device")),
            (self.threads.is_some(), "threads", None),
            (self.flash_attention.is_some(), "flash_attention", None),
            (self.ollama_unload, "ollama_unload", None),
        ];
        refuse(Engine::Candle.as_str(), given)?;
        Ok(LoadOptions {
            dtype: self.dtype,
            device: self.device,
            progress: self.progress.clone(),
            cache_dir: self.cache_dir.clone(),
            model_id: self.model_id.clone(),
        })
    }

    /// As llama.cpp takes them.
    #[cfg(feature = "llamacpp")]
    pub(super) fn for_llamacpp(&self) -> Result<avp_backend_llamacpp::LoadOptions, BackendError> {
        let given = [
            (self.dtype.is_some(), "dtype", Some("kv_type")),
            (self.device != Device::Cpu, "device", Some("gpu_layers")),
        ];
        refuse(Engine::LlamaCpp.as_str(), given)?;
        let mut options = avp_backend_llamacpp::LoadOptions::default();
        options.model_id.clone_from(&self.model_id);
        options.kv_type = self.kv_type.unwrap_or(options.kv_type);
        options.context = self.context_size;
        options.gpu_layers = self.gpu_layers.unwrap_or(options.gpu_layers);
        options.threads = self.threads;
        options.flash_attention = self.flash_attention.unwrap_or(options.flash_attention);
        options.probe = self.probe.clone();
        if let Some(Probe { cache_dir: none @ None, .. }) = &mut options.probe {
            none.clone_from(&self.cache_dir);
        }
        Ok(options)
    }
}

/// Refuses the first option that was given: whether it was, its name, and what the engine has for it.
pub(super) fn refuse<const N: usize>(
    engine: &'static str,
    options: [(bool, &'static str, Option<&'static str>); N],
) -> Result<(), BackendError> {
    match options.into_iter().find(|(given, ..)| *given) {
        Some((_, option, instead)) => Err(BackendError::NoSuchOption { engine, option, instead }),
        None => Ok(()),
    }
}

impl fmt::Debug for ModelOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelOptions")
            .field("model_id", &self.model_id)
            .field("progress", &self.progress.is_some())
            .field("cache_dir", &self.cache_dir)
            .field("dtype", &self.dtype)
            .field("device", &self.device)
            .field("kv_type", &self.kv_type)
            .field("context_size", &self.context_size)
            .field("gpu_layers", &self.gpu_layers)
            .field("threads", &self.threads)
            .field("flash_attention", &self.flash_attention)
            .field("probe", &self.probe)
            .field("ollama_unload", &self.ollama_unload)
            .finish()
    }
}
