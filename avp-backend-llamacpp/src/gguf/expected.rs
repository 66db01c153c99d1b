//! Which tensors a model of an architecture has, and what they look like: what llama.cpp asserts, or takes for granted when it
//! computes (`load_arch_tensors` of src/models/llama.cpp, qwen2.cpp and qwen3.cpp).

use std::collections::HashSet;

use super::error::{GgufError, GgufFault};
use super::file::GgufFile;
use super::ggml_type::GgmlType;
use super::layers::uniform;
use super::meta::ModelMeta;
use super::tensor::TensorInfo;
use crate::shown::shown;

/// Checks the tensors of architectures that are known here; those of others are llama.cpp's to judge.
pub(super) fn check(file: &GgufFile, meta: &ModelMeta) -> Result<(), GgufError> {
    let Some(architecture) = Architecture::of(&meta.architecture) else { return Ok(()) };
    let shape = Shape::of(file, meta, architecture)?;
    let mut expected = Expected { file, names: HashSet::new() };
    expected.model(&shape)?;
    for layer in 0..meta.kv_layers() {
        expected.attention(&shape, layer)?;
        expected.feed_forward(&shape, layer)?;
    }
    match file.tensors().iter().find(|tensor| !expected.names.contains(&tensor.name)) {
        Some(other) => Err(file.error(GgufFault::UnknownTensor {
            name: shown(&other.name),
            architecture: meta.architecture.clone(),
        })),
        None => Ok(()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    fn of(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            _ => None,
        }
    }
}

/// The lengths that shapes are made of.
struct Shape {
    architecture: Architecture,
    embedding: u64,
    vocabulary: u64,
    /// All query heads together.
    query: u64,
    /// All key heads together, which is as much as all value heads.
    key: u64,
    head: u64,
    feed_forward: u64,
    /// 0 of a dense model.
    experts: u64,
    /// Whether RoPE has factors for short and long texts instead of one set.
    long_rope: bool,
}

impl Shape {
    fn of(file: &GgufFile, meta: &ModelMeta, architecture: Architecture) -> Result<Self, GgufError> {
        let key = |name: &str| format!("{}.{name}", meta.architecture);
        let eps = key("attention.layer_norm_rms_epsilon");
        file.required(&eps, meta.rms_eps)?;
        if meta.rope_dimension_count != meta.head_dim || !meta.head_dim.is_multiple_of(2) {
            let whole = format!("the head's length ({}), and even", meta.head_dim);
            return Err(file.bad_value(&key("rope.dimension_count"), meta.rope_dimension_count, whole));
        }
        let head = u64::from(meta.head_dim);
        let query = head.saturating_mul(meta.head_count.into());
        let embedding = u64::from(meta.embedding_length);
        if architecture == Architecture::Qwen2 && query != embedding {
            let whole = format!("{embedding} (embedding_length) over {} heads", meta.head_count);
            return Err(file.bad_value(&key("attention.key_length"), meta.head_dim, whole));
        }
        let feed_forward = key("feed_forward_length");
        let length = uniform(file, &feed_forward, meta.block_count, "the length of their feed-forward part")?;
        let experts = match architecture {
            Architecture::Llama => file.find_u32(&key("expert_count"))?.unwrap_or(0),
            _ => 0,
        };
        Ok(Self {
            architecture,
            embedding,
            vocabulary: meta.vocab_size.into(),
            query,
            key: head.saturating_mul(meta.head_count_kv.into()),
            head,
            feed_forward: file.required(&feed_forward, length)?.into(),
            experts: experts.into(),
            long_rope: file.find_str(&key("rope.scaling.type"))? == Some("longrope"),
        })
    }
}

/// Whether a tensor may be missing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}
use Need::{Optional, Required};

/// The tensors that were expected so far; those that are there are as they should be.
struct Expected<'a> {
    file: &'a GgufFile,
    names: HashSet<String>,
}

impl Expected<'_> {
    fn model(&mut self, shape: &Shape) -> Result<(), GgufError> {
        let &Shape { architecture, embedding, vocabulary, head, long_rope, .. } = shape;
        self.tensor("token_embd.weight".into(), &[embedding, vocabulary], Required)?;
        self.tensor("output_norm.weight".into(), &[embedding], Required)?;
        self.tensor("output.weight".into(), &[embedding, vocabulary], Optional)?;
        if architecture == Architecture::Llama {
            let factors: &[&str] = if long_rope {
                &["rope_factors_long.weight", "rope_factors_short.weight"]
            } else {
                &["rope_freqs.weight"]
            };
            for name in factors {
                self.tensor((*name).into(), &[head / 2], Optional)?;
            }
        }
        Ok(())
    }

    fn attention(&mut self, shape: &Shape, layer: u32) -> Result<(), GgufError> {
        let &Shape { architecture, embedding, query, key, head, .. } = shape;
        let name = |part: &str| format!("blk.{layer}.{part}");
        self.tensor(name("attn_norm.weight"), &[embedding], Required)?;
        let all = query.saturating_add(key).saturating_add(key);
        let is_fused = self.linear(layer, "attn_qkv", embedding, all, Optional)?;
        let has_bias = is_fused && self.tensor(name("attn_qkv.bias"), &[all], Optional)?;
        for (part, width) in [("attn_q", query), ("attn_k", key), ("attn_v", key)] {
            if !is_fused {
                self.linear(layer, part, embedding, width, Required)?;
            }
            if !has_bias {
                self.tensor(name(&format!("{part}.bias")), &[width], Optional)?;
            }
        }
        self.linear(layer, "attn_output", query, embedding, Required)?;
        match architecture {
            Architecture::Llama => {
                self.tensor(name("attn_output.bias"), &[embedding], Optional)?;
            }
            Architecture::Qwen2 => {}
            Architecture::Qwen3 => {
                self.tensor(name("attn_q_norm.weight"), &[head], Required)?;
                self.tensor(name("attn_k_norm.weight"), &[head], Required)?;
            }
        }
        Ok(())
    }

    fn feed_forward(&mut self, shape: &Shape, layer: u32) -> Result<(), GgufError> {
        let &Shape { architecture, embedding, feed_forward, experts, .. } = shape;
        let name = |part: &str| format!("blk.{layer}.{part}");
        self.tensor(name("ffn_norm.weight"), &[embedding], Required)?;
        if experts > 0 {
            self.tensor(name("ffn_gate_inp.weight"), &[embedding, experts], Required)?;
            for (part, from, to) in [
                ("ffn_gate_exps", embedding, feed_forward),
                ("ffn_down_exps", feed_forward, embedding),
                ("ffn_up_exps", embedding, feed_forward),
            ] {
                self.tensor(name(&format!("{part}.weight")), &[from, to, experts], Required)?;
                self.scales(layer, part, experts)?;
            }
            return Ok(());
        }
        for (part, from, to) in [
            ("ffn_gate", embedding, feed_forward),
            ("ffn_down", feed_forward, embedding),
            ("ffn_up", embedding, feed_forward),
        ] {
            self.linear(layer, part, from, to, Required)?;
            if architecture == Architecture::Llama {
                self.tensor(name(&format!("{part}.bias")), &[to], Optional)?;
            }
        }
        Ok(())
    }

    /// A matrix from `from` to `to` elements, with the scales that some quantisations have beside it. Whether it is there.
    fn linear(&mut self, layer: u32, part: &str, from: u64, to: u64, need: Need) -> Result<bool, GgufError> {
        let is_there = self.tensor(format!("blk.{layer}.{part}.weight"), &[from, to], need)?;
        if is_there {
            self.scales(layer, part, 1)?;
        }
        Ok(is_there)
    }

    fn scales(&mut self, layer: u32, part: &str, count: u64) -> Result<(), GgufError> {
        for scale in ["scale", "input_scale"] {
            self.tensor(format!("blk.{layer}.{part}.{scale}"), &[count], Optional)?;
        }
        Ok(())
    }

    /// Checks the tensor of a name, and says whether it is there.
    fn tensor(&mut self, name: String, dims: &[u64], need: Need) -> Result<bool, GgufError> {
        let found = match need {
            Required => Some(self.file.tensor(&name)?),
            Optional => self.file.find_tensor(&name),
        };
        if let Some(tensor) = found {
            check_shape(tensor, dims)
                .and_then(|()| check_type(tensor, dims))
                .map_err(|f| self.file.error(f))?;
        }
        self.names.insert(name);
        Ok(found.is_some())
    }
}

/// Dimensions of 1 at the end are as good as none.
fn check_shape(tensor: &TensorInfo, dims: &[u64]) -> Result<(), GgufFault> {
    let padded = |dims: &[u64]| (0..4).map(|i| dims.get(i).copied().unwrap_or(1)).collect::<Vec<u64>>();
    if padded(&tensor.dims) == padded(dims) {
        return Ok(());
    }
    Err(GgufFault::TensorShape {
        name: shown(&tensor.name),
        dims: tensor.dims.clone(),
        expected: dims.to_vec(),
    })
}

/// What is added or multiplied element by element is f32 in llama.cpp, and matrices are of the types that it multiplies.
fn check_type(tensor: &TensorInfo, dims: &[u64]) -> Result<(), GgufFault> {
    let (fits, expected) = match dims.len() {
        1 => (tensor.ty == GgmlType::F32, "f32"),
        _ => (tensor.ty.is_weight(), "a type of weights, such as f16, q8_0 or q4_K"),
    };
    if fits {
        return Ok(());
    }
    Err(GgufFault::TensorType { name: shown(&tensor.name), ty: tensor.ty, expected })
}
