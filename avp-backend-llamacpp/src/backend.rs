//! A loaded model: [`LlamaCppBackend`].

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use avp_backend::{Backend, BackendError, ModelInfo, RealignmentProducts, Sequence, TextCodec, TokenMix};
use avp_handshake::ModelIdentity;

use crate::codec::GgufCodec;
use crate::ffi::{Mapped, Model, ModelParams, Table, has_gpu};
use crate::gguf::{GgufError, GgufFile, ModelMeta, TensorInfo, TokenKind, Vocabulary};
use crate::loaded::Loaded;
use crate::options::{KvType, LoadOptions};
use crate::sequence::LlamaCppSequence;
use crate::shown::shown;
use crate::state::{CacheType, Layout};

/// Architectures whose first layer takes the rows of the token table as they are, and whose logits are products with the
/// output table and nothing more.
const SUPPORTED: [&str; 3] = ["llama", "qwen2", "qwen3"];
/// Pre-tokenizers by which llama.cpp splits texts in loops of its own. For others it runs the expressions of the C++ library, which
/// take stack for every character of a run and end the process over a long one: such texts come from peers.
const PRE_TOKENIZERS: [&str; 27] = [
    "llama-bpe",
    "llama3",
    "llama-v3",
    "qwen2",
    "deepseek-r1-qwen",
    "smollm",
    "gpt-2",
    "stablelm2",
    "pixtral",
    "falcon3",
    "lfm2",
    "midm-2.0",
    "kormo",
    "f2llmv2",
    "smaug-bpe",
    "dbrx",
    "chatglm-bpe",
    "glm4",
    "olmo",
    "mpt",
    "jais",
    "trillion",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "exaone",
];
const WEIGHTS_OF_A_THREAD: u64 = 4 << 20;
const EMBEDDINGS: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";
/// With it llama.cpp does not mix quantised keys and values, which a cache does not say of itself.
const NO_ROTATION: &str = "LLAMA_ATTN_ROT_DISABLE";
/// Keys that would have either scaled.
const SCALES: [&str; 4] = ["embedding_scale", "logit_scale", "final_logit_softcapping", "residual_scale"];

/// A GGUF model on llama.cpp.
pub struct LlamaCppBackend {
    loaded: Arc<Loaded>,
    codec: GgufCodec,
}

impl LlamaCppBackend {
    /// Loads the GGUF file at `path`.
    ///
    /// # Errors
    /// What is wrong with the file or not supported, by key or tensor.
    pub fn load(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self, BackendError> {
        let path = path.as_ref();
        let file = GgufFile::open(path).map_err(invalid)?;
        let meta = file.meta().map_err(invalid)?;
        check_supported(&file, &meta)?;
        let layout = layout(&meta, options)?;
        let tables = tables(&file, &meta)?;
        if let Some(probe) = &options.probe {
            probe.check(path)?;
        }
        let threads = options.threads.unwrap_or_else(|| threads(&file));
        let params = ModelParams { gpu_layers: options.gpu_layers, threads };
        let model = Model::load(path, params).map_err(|said| {
            let said = if said.is_empty() { "it does not say why".to_owned() } else { shown(&said) };
            problem(path, format!("is refused by llama.cpp: {said}; convert it again"))
        })?;
        check_agrees(path, &model, &meta)?;
        let vocabulary = file.vocabulary().map_err(invalid)?;
        let is_stop = |id: &u32| model.is_end(*id) && vocabulary.kind(*id) != Some(TokenKind::Unused);
        let stop_tokens = (0..meta.vocab_size).filter(is_stop).collect();
        let info = ModelInfo { stop_tokens, ..info(&file, &meta, &vocabulary, options) };
        let layout = Layout { interleaved: model.is_interleaved(), ..layout };
        let loaded = Arc::new(Loaded::new(model, info, layout, tables, options.gpu_layers > 0));
        let codec =
            GgufCodec::new(Arc::clone(&loaded.model), vocabulary.to_map(), vocabulary.pre_tokenizer());
        Ok(Self { loaded, codec })
    }

    #[cfg(test)]
    pub(crate) fn loaded(&self) -> Arc<Loaded> {
        Arc::clone(&self.loaded)
    }

    /// What the model at `path` is, without llama.cpp: of the tokens that end a generation only those that the file names.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn describe(path: impl AsRef<Path>, options: &LoadOptions) -> Result<ModelInfo, BackendError> {
        let file = GgufFile::open(path).map_err(invalid)?;
        let meta = file.meta().map_err(invalid)?;
        check_supported(&file, &meta)?;
        layout(&meta, options)?;
        Ok(info(&file, &meta, &file.vocabulary().map_err(invalid)?, options))
    }
}

/// As many threads as there are processors, but no more than have 4 MiB of weights each: with less they wait for each other most of
/// the time.
fn threads(file: &GgufFile) -> usize {
    let weights: u64 = file.tensors().iter().map(|tensor| tensor.len).sum();
    let worth = usize::try_from(weights / WEIGHTS_OF_A_THREAD).unwrap_or(usize::MAX);
    rayon::current_num_threads().min(worth).max(1)
}

fn invalid(error: GgufError) -> BackendError {
    let problem = error.fault.to_string();
    BackendError::ModelFileInvalid { path: error.path, problem }
}

fn problem(path: &Path, problem: impl Into<String>) -> BackendError {
    BackendError::ModelFileInvalid { path: path.to_owned(), problem: problem.into() }
}

fn check_supported(file: &GgufFile, meta: &ModelMeta) -> Result<(), BackendError> {
    let architecture = meta.architecture.as_str();
    let supported = || SUPPORTED.join(", ");
    if !SUPPORTED.contains(&architecture) {
        let what = format!("the architecture {architecture} on llama.cpp");
        return Err(BackendError::Unsupported { what, supported: supported() });
    }
    let vocabulary = file.vocabulary().map_err(invalid)?;
    let pre = vocabulary.pre_tokenizer().unwrap_or("(none)");
    if vocabulary.model() == "gpt2" && !PRE_TOKENIZERS.contains(&pre) {
        let what = format!("the pre-tokenizer {} on llama.cpp", shown(pre));
        return Err(BackendError::Unsupported { what, supported: PRE_TOKENIZERS.join(", ") });
    }
    file.check_tensors(meta).map_err(invalid)?;
    for scale in SCALES {
        let key = format!("{architecture}.{scale}");
        if file.find_f32(&key).map_err(invalid)?.is_some_and(|scale| scale != 0.0 && scale != 1.0) {
            let what = format!("{key} on llama.cpp");
            return Err(BackendError::Unsupported { what, supported: "models without it".into() });
        }
    }
    Ok(())
}

fn cache_type(options: &LoadOptions) -> CacheType {
    match options.kv_type {
        KvType::F32 => CacheType::F32,
        KvType::F16 => CacheType::F16,
        KvType::Bf16 => CacheType::Bf16,
        KvType::Q8 => CacheType::Q8,
    }
}

fn layout(meta: &ModelMeta, options: &LoadOptions) -> Result<Layout, BackendError> {
    let kind = cache_type(options);
    let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let unsupported = |what: &str, supported: &str| {
        Err(BackendError::Unsupported { what: what.into(), supported: supported.into() })
    };
    if kind == CacheType::Q8 && !options.flash_attention {
        return unsupported("a KV cache of q8_0 without flash attention", "q8_0 with flash attention");
    }
    if kind == CacheType::Q8 && std::env::var_os(NO_ROTATION).is_some() {
        return unsupported("a KV cache of q8_0 while LLAMA_ATTN_ROT_DISABLE is set", "q8_0 without it");
    }
    if kind == CacheType::Q8 && !meta.head_dim.is_multiple_of(32) {
        return unsupported("a KV cache of q8_0 for heads of such a width", "widths that 32 divides");
    }
    Ok(Layout {
        layers: size(meta.kv_layers()),
        kv_heads: size(meta.head_count_kv),
        head_dim: size(meta.head_dim),
        kind,
        transposed: !options.flash_attention,
        interleaved: false,
    })
}

/// The token table and the output table.
fn tables(file: &GgufFile, meta: &ModelMeta) -> Result<(Table, Table), BackendError> {
    let path = file.path();
    let mapped = Mapped::open(path).map_err(|source| BackendError::Io { path: path.to_owned(), source })?;
    let table = |tensor: &TensorInfo| {
        let bytes = || -> Option<Range<usize>> {
            let start = usize::try_from(tensor.offset).ok()?;
            Some(start..start.checked_add(usize::try_from(tensor.len).ok()?)?)
        };
        let width = usize::try_from(meta.embedding_length).unwrap_or(0);
        let has_shape = tensor.row_len() == u64::from(meta.embedding_length)
            && tensor.rows() == u64::from(meta.vocab_size);
        let made = bytes().filter(|_| has_shape);
        let made = made.and_then(|bytes| Table::new(Arc::clone(&mapped), bytes, tensor.ty, width));
        let expected = (meta.embedding_length, meta.vocab_size);
        made.ok_or_else(|| {
            problem(path, format!("its tensor {} is no table of {expected:?}; convert it again", tensor.name))
        })
    };
    let embeddings = table(file.tensor(EMBEDDINGS).map_err(invalid)?)?;
    let head = file.find_tensor(OUTPUT).map(table).transpose()?.unwrap_or_else(|| embeddings.clone());
    Ok((embeddings, head))
}

/// What llama.cpp made of the file must be what was read here.
fn check_agrees(path: &Path, model: &Model, meta: &ModelMeta) -> Result<(), BackendError> {
    if model.is_recurrent() || model.sliding_window() > 0 {
        let what = format!("the cache of {} on llama.cpp", meta.architecture);
        return Err(BackendError::Unsupported {
            what,
            supported: "models that keep every key and value".into(),
        });
    }
    let same = |ours: u32, theirs: usize| usize::try_from(ours).is_ok_and(|ours| ours == theirs);
    if !same(meta.embedding_length, model.hidden_dim()) || !same(meta.vocab_size, model.vocab_size()) {
        return Err(problem(path, "is another model to llama.cpp than its metadata say; convert it again"));
    }
    Ok(())
}

fn info(file: &GgufFile, meta: &ModelMeta, vocabulary: &Vocabulary<'_>, options: &LoadOptions) -> ModelInfo {
    let path = file.path();
    let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let model_id = options.model_id.clone().or_else(|| meta.name.clone()).or_else(stem).unwrap_or_default();
    let window = size(meta.context_length);
    let named = |id: Option<u32>, name: &str| Some((name.to_owned(), vocabulary.token(id?)?.to_owned()));
    ModelInfo {
        identity: ModelIdentity {
            model_family: meta.architecture.clone(),
            model_id,
            // Of a Hugging Face config, which a GGUF does not keep.
            model_hash: String::new(),
            hidden_dim: meta.embedding_length,
            num_layers: meta.kv_layers(),
            num_kv_heads: meta.head_count_kv,
            head_dim: meta.head_dim,
            tokenizer_hash: vocabulary.hash(),
        },
        weights: meta.weights.as_ref().map(ToString::to_string),
        source: path.to_owned(),
        num_heads: size(meta.head_count),
        vocab_size: size(meta.vocab_size),
        max_positions: options.context.map_or(window, |context| context.min(window)),
        tied_embeddings: file.find_tensor(OUTPUT).is_none(),
        dtype: cache_type(options).canonical(),
        device: if options.gpu_layers > 0 && has_gpu() { "gpu" } else { "cpu" }.into(),
        stop_tokens: [meta.eos, meta.eot].into_iter().flatten().collect(),
        chat_template: meta.chat_template.clone(),
        special_tokens: HashMap::from_iter(
            [named(meta.bos, "bos_token"), named(meta.eos, "eos_token")].into_iter().flatten(),
        ),
    }
}

impl Backend for LlamaCppBackend {
    fn info(&self) -> &ModelInfo {
        &self.loaded.info
    }

    fn codec(&self) -> &dyn TextCodec {
        &self.codec
    }

    fn new_sequence(&self, capacity: usize) -> Result<Box<dyn Sequence>, BackendError> {
        Ok(Box::new(LlamaCppSequence::new(Arc::clone(&self.loaded), capacity)?))
    }

    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, BackendError> {
        self.loaded.logits(hidden)
    }

    fn embed_mix(&self, mixes: &[TokenMix<'_>]) -> Result<Vec<f32>, BackendError> {
        self.loaded.embed_mix(mixes)
    }

    fn mean_embedding_norm(&self) -> Result<f32, BackendError> {
        Ok(self.loaded.mean_embedding_norm())
    }

    fn realignment_products(&self) -> Result<RealignmentProducts, BackendError> {
        Ok(self.loaded.realignment_products())
    }
}
