//! What a causal language model says about itself.

use avp_handshake::fingerprint::Fingerprint;

use super::architecture;
use super::error::{GgufError, GgufFault};
use super::file::GgufFile;
use super::layers::{greatest, uniform};

/// llama.cpp rounds the number of positions up in 32 bits.
const LONGEST_CONTEXT: u32 = 1 << 28;

/// The shape of a causal language model with a KV cache of one shape in every layer, and what its tokenizer is told.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelMeta {
    /// llama.cpp's name of the architecture: `llama`, `qwen2`.
    pub architecture: String,
    /// The model's name, if it has one.
    pub name: Option<String>,
    /// Layers, [`Self::nextn_layers`] included.
    pub block_count: u32,
    /// Layers at the end that only predict several tokens at once, and that llama.cpp leaves out of the cache.
    pub nextn_layers: u32,
    /// Length of a hidden state.
    pub embedding_length: u32,
    /// Query heads.
    pub head_count: u32,
    /// Key and value heads: `kv_heads` of the canonical KV.
    pub head_count_kv: u32,
    /// Length of a key, and of a value, of one head.
    pub head_dim: u32,
    /// How many of these RoPE rotates.
    pub rope_dimension_count: u32,
    /// RoPE's base.
    pub rope_freq_base: f32,
    /// Epsilon of the RMS norms; `None` where the model has other norms.
    pub rms_eps: Option<f32>,
    /// Most positions the model was trained for.
    pub context_length: u32,
    /// Ids of the vocabulary, padding included: length of the logits.
    pub vocab_size: u32,
    /// Begins a text.
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Whether [`Self::bos`] is put before every text; `None` where the file leaves it to the kind of tokenizer.
    pub add_bos: Option<bool>,
    /// Chat template, in Jinja.
    pub chat_template: Option<String>,
    /// Fingerprint of the source checkpoint (`avp.weights`; docs/spec/handshake.md, section 5).
    pub weights: Option<Fingerprint>,
}

impl ModelMeta {
    /// Layers that keep keys and values.
    #[must_use]
    pub fn kv_layers(&self) -> u32 {
        self.block_count.saturating_sub(self.nextn_layers)
    }

    pub(super) fn of(file: &GgufFile) -> Result<Self, GgufError> {
        let architecture = file.get_str("general.architecture")?;
        check_kind(file)?;
        architecture::check(file, architecture)?;
        let keys = Keys { file, architecture };
        let block_count = keys.within("block_count", 1, MAX_LAYERS)?;
        let nextn_layers = file.find_u32(&keys.key("nextn_predict_layers"))?.unwrap_or(0);
        if nextn_layers >= block_count {
            let below = format!("below block_count ({block_count})");
            return Err(file.bad_value(&keys.key("nextn_predict_layers"), nextn_layers, below));
        }
        keys.check_experts(block_count)?;
        keys.check_rope_scaling()?;
        let embedding_length = keys.within("embedding_length", 1, MAX_LENGTH)?;
        let heads = Heads::of(&keys, block_count, embedding_length)?;
        let vocab_size = file.vocabulary()?.len();
        let token = |name: &str| token_id(file, name, vocab_size);
        Ok(Self {
            architecture: architecture.to_owned(),
            name: file.find_str("general.name")?.map(str::to_owned),
            block_count,
            nextn_layers,
            embedding_length,
            head_count: heads.query,
            head_count_kv: heads.kv,
            head_dim: heads.dim,
            rope_dimension_count: heads.rotated,
            rope_freq_base: keys.positive("rope.freq_base")?.unwrap_or(10_000.0),
            rms_eps: keys.positive("attention.layer_norm_rms_epsilon")?,
            context_length: keys.within("context_length", 1, LONGEST_CONTEXT)?,
            vocab_size,
            bos: token("bos")?,
            eos: token("eos")?,
            eot: token("eot")?,
            add_bos: file.find_bool("tokenizer.ggml.add_bos_token")?,
            chat_template: file.find_str("tokenizer.chat_template")?.map(str::to_owned),
            weights: weights(file)?,
        })
    }
}

/// Query, key and value heads.
struct Heads {
    query: u32,
    kv: u32,
    dim: u32,
    rotated: u32,
}

impl Heads {
    fn of(keys: &Keys<'_>, layers: u32, embedding: u32) -> Result<Self, GgufError> {
        let file = keys.file;
        let head_count = keys.key("attention.head_count");
        let query = uniform(file, &head_count, layers, "their number of query heads")?;
        let query = file.required(&head_count, query)?;
        if query == 0 || query > MAX_LENGTH {
            return Err(file.bad_value(&head_count, query, format!("from 1 to {MAX_LENGTH}")));
        }
        let head_count_kv = keys.key("attention.head_count_kv");
        let kv =
            uniform(file, &head_count_kv, layers, "their number of key and value heads")?.unwrap_or(query);
        if kv == 0 || !query.is_multiple_of(kv) {
            let divisor = format!("a divisor of the {query} query heads");
            return Err(file.bad_value(&head_count_kv, kv, divisor));
        }
        let dim = Self::dim(keys, query, embedding)?;
        let rotated = file.find_u32(&keys.key("rope.dimension_count"))?.unwrap_or(dim);
        if rotated > dim {
            let most = format!("at most the head's length, {dim}");
            return Err(file.bad_value(&keys.key("rope.dimension_count"), rotated, most));
        }
        Ok(Self { query, kv, dim, rotated })
    }

    fn dim(keys: &Keys<'_>, query: u32, embedding: u32) -> Result<u32, GgufError> {
        let file = keys.file;
        let length = |name: &str| file.find_u32(&keys.key(name));
        let (key, value) = (length("attention.key_length")?, length("attention.value_length")?);
        if (key.is_none() || value.is_none()) && !embedding.is_multiple_of(query) {
            let multiple = format!("a multiple of the {query} query heads");
            return Err(file.bad_value(&keys.key("embedding_length"), embedding, multiple));
        }
        let default = embedding.checked_div(query).unwrap_or(0);
        let (key, value) = (key.unwrap_or(default), value.unwrap_or(default));
        if key == 0 || key > MAX_LENGTH {
            return Err(file.bad_value(
                &keys.key("attention.key_length"),
                key,
                format!("from 1 to {MAX_LENGTH}"),
            ));
        }
        if key != value {
            let equal = format!("{key}, the length of a key: only caches of one shape can be shared");
            return Err(file.bad_value(&keys.key("attention.value_length"), value, equal));
        }
        Ok(key)
    }
}

/// Keys of an architecture: `qwen2.block_count`.
struct Keys<'a> {
    file: &'a GgufFile,
    architecture: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn within(&self, name: &str, least: u32, most: u32) -> Result<u32, GgufError> {
        let key = self.key(name);
        match self.file.get_u32(&key)? {
            value if value < least || value > most => {
                Err(self.file.bad_value(&key, value, format!("from {least} to {most}")))
            }
            value => Ok(value),
        }
    }

    fn positive(&self, name: &str) -> Result<Option<f32>, GgufError> {
        let key = self.key(name);
        match self.file.find_f32(&key)? {
            Some(value) if !value.is_finite() || value <= 0.0 => {
                Err(self.file.bad_value(&key, value, "a finite number above 0"))
            }
            value => Ok(value),
        }
    }

    /// llama.cpp aborts on a name that it does not know.
    fn check_rope_scaling(&self) -> Result<(), GgufError> {
        let key = self.key("rope.scaling.type");
        match self.file.find_str(&key)? {
            None | Some("none" | "linear" | "yarn" | "longrope") => Ok(()),
            Some(other) => {
                Err(self.file.bad_value(&key, format!("'{other}'"), "none, linear, yarn or longrope"))
            }
        }
    }

    /// llama.cpp aborts where these numbers do not fit one another.
    fn check_experts(&self, layers: u32) -> Result<(), GgufError> {
        let number = |name: &str| Ok(self.file.find_u32(&self.key(name))?.unwrap_or(0));
        let experts = number("expert_count")?;
        let used = greatest(self.file, &self.key("expert_used_count"), layers)?.unwrap_or(0);
        let (groups, groups_used) = (number("expert_group_count")?, number("expert_group_used_count")?);
        let bad = |name: &str, value: u32, expected: String| {
            Err(self.file.bad_value(&self.key(name), value, expected))
        };
        if experts > MAX_EXPERTS {
            return bad("expert_count", experts, format!("at most {MAX_EXPERTS}"));
        }
        if used > experts || (experts > 0 && used == 0) {
            return bad("expert_used_count", used, format!("some of the {experts} experts"));
        }
        if groups > 0 && (groups >= experts || !experts.is_multiple_of(groups)) {
            return bad("expert_group_count", groups, format!("a proper divisor of the {experts} experts"));
        }
        if groups > 1 && !(1..groups).contains(&groups_used) {
            return bad("expert_group_used_count", groups_used, format!("some of the {groups} groups"));
        }
        Ok(())
    }
}

/// Refuses adapters, projectors and parts of models.
fn check_kind(file: &GgufFile) -> Result<(), GgufError> {
    if let Some(kind) = file.find_str("general.type")?.filter(|&kind| kind != "model") {
        return Err(file.bad_value(
            "general.type",
            format!("'{kind}'"),
            "'model': give the model's own file",
        ));
    }
    match file.find_u16("split.count")? {
        Some(count) if count > 1 => Err(file.error(GgufFault::Split { count })),
        _ => Ok(()),
    }
}

fn token_id(file: &GgufFile, name: &str, vocab_size: u32) -> Result<Option<u32>, GgufError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    match file.find_u32(&key)? {
        Some(id) if id >= vocab_size => {
            Err(file.bad_value(&key, id, format!("below the vocabulary's size, {vocab_size}")))
        }
        id => Ok(id),
    }
}

fn weights(file: &GgufFile) -> Result<Option<Fingerprint>, GgufError> {
    let Some(weights) = file.find_str(WEIGHTS)? else { return Ok(None) };
    let fingerprint = weights.parse();
    fingerprint
        .map(Some)
        .map_err(|_| file.bad_value(WEIGHTS, format!("'{weights}'"), "64 lowercase hex digits"))
}

const WEIGHTS: &str = "avp.weights";
/// `LLAMA_MAX_LAYERS`
const MAX_LAYERS: u32 = 512;
/// `LLAMA_MAX_EXPERTS`
const MAX_EXPERTS: u32 = 1024;
/// Far beyond the embeddings and head counts of any model.
const MAX_LENGTH: u32 = 1 << 20;
