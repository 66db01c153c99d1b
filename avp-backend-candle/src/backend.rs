//! A loaded model: [`CandleBackend`].

use std::path::Path;
use std::sync::Arc;

use avp_backend::{
    Backend, BackendError, LatentProjection, ModelInfo, ProjectionError, RealignmentProducts, Sequence,
    TextCodec, TokenMix,
};
use avp_handshake::{ModelIdentity, tokenizer_hash};
use avp_wire::KvDtype;
use candle_core::DType;

use crate::bandwidth::{self, CopyBandwidth};
use crate::codec::HfCodec;
use crate::config::DecoderConfig;
use crate::config::json::{invalid, parse_object, read_file, read_object};
use crate::decoder::Decoder;
use crate::error::engine;
use crate::fingerprint;
use crate::folder::{ChatFiles, required};
use crate::options::{Device, LoadOptions};
use crate::queued::{self, QueuedSteps};
use crate::sequence::CandleSequence;
use crate::shape::{Shape, TOKENIZER};
use crate::vocabulary;
use crate::weights::{Shards, Weights};

/// A safetensors model on candle.
#[derive(Debug)]
pub struct CandleBackend {
    model: Arc<Decoder>,
    codec: HfCodec,
    info: ModelInfo,
}

impl CandleBackend {
    /// Loads a Hugging Face model folder, or a model of the hub by its id (`Qwen/Qwen2.5-0.5B`), which is
    /// downloaded first unless it is cached (feature `hub`). A folder of that name wins. `HF_ENDPOINT` names
    /// another hub.
    ///
    /// # Errors
    /// What is missing, wrong or not supported in the model's files, by file and key; what the hub answered.
    pub fn load(model: impl AsRef<Path>, options: &LoadOptions) -> Result<Self, BackendError> {
        let model = model.as_ref();
        if model.is_dir() {
            return Self::load_folder(model, options);
        }
        #[cfg(feature = "hub")]
        if let Some(id) = crate::hub::model_id(model) {
            return Self::load_from_hub(id, options);
        }
        let problem = match model.is_file() {
            true => "is a file; give the Hugging Face model folder that holds config.json",
            false => "does not exist; give a Hugging Face model folder or a hub id such as Qwen/Qwen2.5-0.5B",
        };
        Err(invalid(model, problem))
    }

    #[cfg(feature = "hub")]
    fn load_from_hub(id: &str, options: &LoadOptions) -> Result<Self, BackendError> {
        let folder = crate::hub::fetch(id, options)?;
        let model_id = options.model_id.clone().or_else(|| Some(id.to_owned()));
        Self::load_folder(&folder, &LoadOptions { model_id, ..options.clone() })
    }

    /// What a model is, without loading its weights: identity, fingerprint, tokenizer facts and limits. Takes a folder or
    /// hub id as [`load`](Self::load) does.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn describe(model: impl AsRef<Path>, options: &LoadOptions) -> Result<ModelInfo, BackendError> {
        let model = model.as_ref();
        if model.is_dir() {
            return Ok(Described::read(model, options)?.info);
        }
        #[cfg(feature = "hub")]
        if let Some(id) = crate::hub::model_id(model) {
            let folder = crate::hub::fetch(id, options)?;
            let model_id = options.model_id.clone().or_else(|| Some(id.to_owned()));
            return Ok(Described::read(&folder, &LoadOptions { model_id, ..options.clone() })?.info);
        }
        Err(invalid(model, "is no Hugging Face model folder"))
    }

    /// A model of a well-known shape whose weights are random, made where it computes: what it says is nothing, and how fast it is
    /// is what a real one would be. Its tokenizer knows one word; give it token ids.
    ///
    /// # Errors
    /// If there is no such device, or no memory.
    pub fn random(shape: Shape, options: &LoadOptions) -> Result<Self, BackendError> {
        let device = open_device(options.device)?;
        let (path, json) = (Path::new(shape.name()), shape.config().to_string().into_bytes());
        let config = DecoderConfig::parse(path, &parse_object(path, &json)?)?;
        let codec = HfCodec::parse(path, TOKENIZER.into())?;
        let mut identity = identity(path, &json, &config, &codec)?;
        identity.model_id = options.model_id.clone().unwrap_or_else(|| shape.name().to_owned());
        let dtype = options.dtype.unwrap_or(KvDtype::F32);
        let info = ModelInfo {
            identity,
            weights: None,
            source: path.to_path_buf(),
            num_heads: config.heads,
            vocab_size: config.vocab,
            max_positions: config.max_positions,
            tied_embeddings: config.tied,
            dtype,
            device: device_name(options.device),
            stop_tokens: Vec::new(),
            chat_template: None,
            special_tokens: Default::default(),
        };
        let dtype = candle_dtype(dtype);
        let model = Decoder::load(config, Weights::random(dtype, &device), dtype, &device)?;
        Ok(Self { model: Arc::new(model), codec, info })
    }

    /// Bytes of weights that a decode step reads: those of all layers and of the output head, as they lie in memory.
    #[must_use]
    pub fn decode_bytes(&self) -> usize {
        self.model.decode_bytes()
    }

    /// Bytes a second at which the memory that holds the weights is read, or on a GPU copied within it (bytes read and bytes
    /// written): what bounds a decode step. Takes 1 GiB for a moment, on a GPU 2.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn memory_bandwidth(&self) -> Result<f64, BackendError> {
        bandwidth::of(&self.model.device).map_err(engine)
    }

    /// How fast bytes are copied between the memory of a GPU and pinned memory of the host, or where the processor computes, by all
    /// threads from one array of `bytes` to another: what bounds moving a KV cache of that size.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn copy_bandwidth(&self, bytes: usize) -> Result<CopyBandwidth, BackendError> {
        bandwidth::copies(&self.model.device, bytes).map_err(engine)
    }

    /// What a GPU takes for steps behind `past` positions if it need not wait until the host has launched what they consist of: the
    /// launches of a step are queued while the GPU is kept busy. None on a processor. Takes 2 GiB of the GPU for a moment.
    ///
    /// # Errors
    /// If `past` goes beyond the window, or there is no memory.
    pub fn queued_steps(
        &self,
        past: usize,
        projection: &LatentProjection,
    ) -> Result<Option<QueuedSteps>, BackendError> {
        let window = self.model.config.max_positions;
        match past {
            0 => Err(BackendError::Shape { what: "number of positions before a step", expected: 1, got: 0 }),
            _ if past >= window => {
                Err(BackendError::ContextWindow { needed: past.saturating_add(1), window })
            }
            _ => queued::steps(&self.model, past, projection),
        }
    }

    /// Loads a Hugging Face model folder.
    pub(crate) fn load_folder(folder: &Path, options: &LoadOptions) -> Result<Self, BackendError> {
        let device = open_device(options.device)?;
        let Described { config, codec, shards, info } = Described::read(folder, options)?;
        let dtype = candle_dtype(info.dtype);
        let weights = Weights::new(&shards, dtype, &device, options.progress.clone())?;
        let model = Decoder::load(config, weights, dtype, &device)?;
        Ok(Self { model: Arc::new(model), codec, info })
    }
}

#[cfg(test)]
impl CandleBackend {
    pub(crate) fn model(&self) -> &Arc<Decoder> {
        &self.model
    }
}

/// A model folder whose weights were not loaded.
struct Described {
    config: DecoderConfig,
    codec: HfCodec,
    shards: Shards,
    info: ModelInfo,
}

impl Described {
    fn read(folder: &Path, options: &LoadOptions) -> Result<Self, BackendError> {
        let config_path = required(folder, "config.json")?;
        let config = DecoderConfig::parse(&config_path, &read_object(&config_path)?)?;
        let codec = HfCodec::load(&required(folder, "tokenizer.json")?)?;
        let chat = ChatFiles::load(folder, &codec, &config.eos)?;
        let mut identity = identity(&config_path, &read_file(&config_path)?, &config, &codec)?;
        if let Some(id) = &options.model_id {
            identity.model_id.clone_from(id);
        } else if identity.model_id.is_empty() {
            let name = folder.file_name().unwrap_or(folder.as_os_str());
            identity.model_id = name.to_string_lossy().into_owned();
        }
        let shards = Shards::open(folder)?;
        let info = ModelInfo {
            identity,
            weights: Some(fingerprint::of_weights(&shards.paths(), options)?),
            source: folder.to_path_buf(),
            num_heads: config.heads,
            vocab_size: config.vocab,
            max_positions: config.max_positions,
            tied_embeddings: config.tied,
            dtype: options.dtype.unwrap_or(KvDtype::F32),
            device: device_name(options.device),
            stop_tokens: chat.stop_tokens,
            chat_template: chat.chat_template,
            special_tokens: chat.special_tokens,
        };
        Ok(Self { config, codec, shards, info })
    }
}

impl Backend for CandleBackend {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn codec(&self) -> &dyn TextCodec {
        &self.codec
    }

    fn new_sequence(&self, capacity: usize) -> Result<Box<dyn Sequence>, BackendError> {
        Ok(Box::new(CandleSequence::new(Arc::clone(&self.model), capacity)?))
    }

    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, BackendError> {
        vocabulary::logits(&self.model, hidden)
    }

    fn embed_mix(&self, mixes: &[TokenMix<'_>]) -> Result<Vec<f32>, BackendError> {
        vocabulary::embed_mix(&self.model, mixes)
    }

    fn soft_embedding(&self, hidden: &[f32], left_out: f32) -> Result<Option<Vec<f32>>, ProjectionError> {
        vocabulary::soft_embedding(&self.model, hidden, left_out)
    }

    #[cfg(feature = "cuda")]
    fn shared_device(&self) -> Option<&str> {
        Some(self.model.transfers.as_ref()?.sharing.as_ref()?.device())
    }

    fn mean_embedding_norm(&self) -> Result<f32, BackendError> {
        vocabulary::mean_embedding_norm(&self.model).map_err(engine)
    }

    fn realignment_products(&self) -> Result<RealignmentProducts, BackendError> {
        vocabulary::realignment_products(&self.model).map_err(engine)
    }
}

fn candle_dtype(dtype: KvDtype) -> DType {
    match dtype {
        KvDtype::F32 => DType::F32,
        KvDtype::F16 => DType::F16,
        KvDtype::Bf16 => DType::BF16,
    }
}

fn open_device(device: Device) -> Result<candle_core::Device, BackendError> {
    match device {
        Device::Cpu => Ok(candle_core::Device::Cpu),
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => crate::cuda::open(ordinal).map_err(|error| {
            BackendError::Engine(format!(
                "cuda:{ordinal} cannot be used: {error}; see `nvidia-smi` for GPUs and the driver, which must know CUDA 13, or use --device cpu"
            ))
        }),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(ordinal) => Err(BackendError::Unsupported {
            what: format!("device cuda:{ordinal} in a build without the feature `cuda`"),
            supported: "cpu, and GPUs in what `cargo xtask build --cuda` builds".to_owned(),
        }),
    }
}

fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda(ordinal) => format!("cuda:{ordinal}"),
    }
}

/// The identity of `config.json`, with the dimensions as this engine computes them.
fn identity(
    config_path: &Path,
    json: &[u8],
    config: &DecoderConfig,
    codec: &HfCodec,
) -> Result<ModelIdentity, BackendError> {
    let mut identity =
        ModelIdentity::from_config_json(json).map_err(|e| invalid(config_path, e.to_string()))?;
    let dimension = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    identity.hidden_dim = dimension(config.hidden);
    identity.num_layers = dimension(config.layers.len());
    identity.num_kv_heads = dimension(config.kv_heads);
    identity.head_dim = dimension(config.head_dim);
    identity.tokenizer_hash = tokenizer_hash(codec.vocab());
    Ok(identity)
}
