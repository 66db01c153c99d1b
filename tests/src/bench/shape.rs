//! Model folders of a given shape with random weights.

use std::fs::{self, File};
use std::io::{BufWriter, Write};

use anyhow::Result;
use avp_wire::KvDtype;
use half::{bf16, f16};
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Standard deviation of the weights, as transformers initialises them.
pub(crate) const STD: f32 = 0.02;
/// A tokenizer that knows one word: the benches give token ids.
const TOKENIZER: &str = include_str!("../../../avp-backend-candle/src/one_word_tokenizer.json");
/// Values made at a time.
const BLOCK: usize = 1 << 20;

/// A Qwen2 decoder with tied embeddings.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) vocab: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// Standard deviation that the logits are to have: the final norm is scaled for it.
    pub(crate) logits_std: f32,
}

impl Shape {
    /// Qwen2.5-0.5B.
    pub(crate) const HALF_B: Self = Self {
        vocab: 151_936,
        hidden: 896,
        intermediate: 4864,
        layers: 24,
        heads: 14,
        kv_heads: 2,
        logits_std: 5.0,
    };

    /// The KV cache of Qwen2.5-0.5B on a model that is otherwise small.
    pub(crate) const HALF_B_CACHE: Self =
        Self { vocab: 64, hidden: 128, intermediate: 64, layers: 24, heads: 2, kv_heads: 2, logits_std: 1.0 };

    /// Writes a Hugging Face folder with f32 weights; it is removed when dropped.
    pub(crate) fn write(&self) -> Result<TempDir> {
        self.write_as(KvDtype::F32)
    }

    /// The same with weights in `dtype`: f32, f16 or bf16.
    pub(crate) fn write_as(&self, dtype: KvDtype) -> Result<TempDir> {
        let folder = tempfile::Builder::new().prefix("avp-bench-").tempdir()?;
        fs::write(folder.path().join("config.json"), self.config(dtype).to_string())?;
        fs::write(folder.path().join("tokenizer.json"), TOKENIZER)?;
        let mut file = BufWriter::new(File::create(folder.path().join("model.safetensors"))?);
        let tensors = self.tensors();
        let header = header(&tensors, dtype).to_string();
        let padded = header.len().next_multiple_of(8);
        file.write_all(&u64::try_from(padded)?.to_le_bytes())?;
        write!(file, "{header:padded$}")?;
        for (seed, tensor) in (1_u64..).zip(&tensors) {
            tensor.write(seed, dtype, &mut file)?;
        }
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        Ok(folder)
    }

    fn config(&self, dtype: KvDtype) -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": true,
            "torch_dtype": names(dtype).1,
            "eos_token_id": 0,
        })
    }

    fn tensors(&self) -> Vec<Random> {
        let (hidden, wide) = (self.hidden, self.intermediate);
        let kv = hidden / self.heads * self.kv_heads;
        // A normalised hidden state has the norm `scale * sqrt(hidden)`, which times STD is that of a logit.
        let scale = self.logits_std / (STD * (hidden as f32).sqrt());
        let mut tensors = vec![
            Random::weights("model.embed_tokens.weight", &[self.vocab, hidden]),
            Random::constant("model.norm.weight", hidden, scale),
        ];
        for layer in 0..self.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            for (part, rows, columns) in [
                ("self_attn.q_proj.weight", hidden, hidden),
                ("self_attn.k_proj.weight", kv, hidden),
                ("self_attn.v_proj.weight", kv, hidden),
                ("self_attn.o_proj.weight", hidden, hidden),
                ("mlp.gate_proj.weight", wide, hidden),
                ("mlp.up_proj.weight", wide, hidden),
                ("mlp.down_proj.weight", hidden, wide),
            ] {
                tensors.push(Random::weights(&name(part), &[rows, columns]));
            }
            for (part, len) in [
                ("self_attn.q_proj.bias", hidden),
                ("self_attn.k_proj.bias", kv),
                ("self_attn.v_proj.bias", kv),
            ] {
                tensors.push(Random::weights(&name(part), &[len]));
            }
            for part in ["input_layernorm.weight", "post_attention_layernorm.weight"] {
                tensors.push(Random::constant(&name(part), hidden, 1.0));
            }
        }
        tensors
    }
}

/// A tensor of random or constant values.
struct Random {
    name: String,
    shape: Vec<usize>,
    constant: Option<f32>,
}

impl Random {
    fn weights(name: &str, shape: &[usize]) -> Self {
        Self { name: name.to_owned(), shape: shape.to_vec(), constant: None }
    }

    fn constant(name: &str, len: usize, value: f32) -> Self {
        Self { name: name.to_owned(), shape: vec![len], constant: Some(value) }
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn write(&self, seed: u64, dtype: KvDtype, file: &mut impl Write) -> Result<()> {
        let mut block = vec![0_u8; BLOCK * dtype.size()];
        for start in (0..self.len()).step_by(BLOCK) {
            let len = BLOCK.min(self.len() - start);
            let block = &mut block[..len * dtype.size()];
            block.par_chunks_exact_mut(dtype.size()).enumerate().for_each(|(i, bytes)| {
                let value = self.constant.unwrap_or_else(|| uniform(seed << 40 | (start + i) as u64));
                match dtype {
                    KvDtype::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                    KvDtype::Bf16 => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                    _ => bytes.copy_from_slice(&value.to_le_bytes()),
                }
            });
            file.write_all(block)?;
        }
        Ok(())
    }
}

/// A value of standard deviation [`STD`], uniform, the same for the same place on every machine (SplitMix64).
pub(crate) fn uniform(place: u64) -> f32 {
    let mut z = place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let unit = ((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32;
    (unit - 0.5) * 2.0 * 3f32.sqrt() * STD
}

/// What safetensors and torch call the type.
fn names(dtype: KvDtype) -> (&'static str, &'static str) {
    match dtype {
        KvDtype::F16 => ("F16", "float16"),
        KvDtype::Bf16 => ("BF16", "bfloat16"),
        _ => ("F32", "float32"),
    }
}

/// The header of a safetensors file with `tensors` in this order.
fn header(tensors: &[Random], dtype: KvDtype) -> Value {
    let mut start = 0;
    let entries = tensors.iter().map(|tensor| {
        let end = start + tensor.len() * dtype.size();
        let entry = json!({ "dtype": names(dtype).0, "shape": tensor.shape, "data_offsets": [start, end] });
        start = end;
        (tensor.name.clone(), entry)
    });
    Value::Object(entries.collect::<Map<_, _>>())
}
