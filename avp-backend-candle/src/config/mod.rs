//! What `config.json` says about a decoder, checked before anything relies on it.

pub(crate) mod json;
mod rope;

use std::path::Path;

use avp_backend::BackendError;
use serde_json::{Map, Value};

use json::Object;
pub(crate) use rope::Rope;

const SUPPORTED: &str = "llama, mistral, qwen2, qwen3, gemma2, gemma3_text";

/// Bounds within which a config is believed. Every published model lies far inside; a value beyond them is a
/// mistake that would end in an allocation failure.
mod bounds {
    pub(super) const WIDTH: usize = 1 << 20;
    pub(super) const LAYERS: usize = 1024;
    pub(super) const HEADS: usize = 4096;
    pub(super) const HEAD_DIM: usize = 4096;
    pub(super) const VOCAB: usize = 1 << 24;
    pub(super) const POSITIONS: usize = 1 << 27;
}

/// Architecture, as `model_type` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma2,
    Gemma3,
}

impl Family {
    fn parse(model_type: &str) -> Result<Self, BackendError> {
        Ok(match model_type {
            "llama" => Self::Llama,
            "mistral" => Self::Mistral,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            "gemma2" => Self::Gemma2,
            "gemma3_text" => Self::Gemma3,
            other => {
                return Err(BackendError::Unsupported {
                    what: format!("model_type {other:?}"),
                    supported: SUPPORTED.to_owned(),
                });
            }
        })
    }

    fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }
}

/// Activation of the gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Silu,
    /// GELU with the tanh approximation.
    GeluTanh,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerConfig {
    /// Positions that a query sees, itself included; all if none.
    pub(crate) window: Option<usize>,
    /// Index into [`DecoderConfig::ropes`].
    pub(crate) rope: usize,
}

/// A decoder-only transformer with grouped-query attention, RMS norms, RoPE and a gated MLP.
#[derive(Clone, Debug)]
pub(crate) struct DecoderConfig {
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
    pub(crate) max_positions: usize,
    pub(crate) layers: Vec<LayerConfig>,
    pub(crate) ropes: Vec<Rope>,
    pub(crate) norm_eps: f32,
    /// Norm weights are stored as their difference from 1 (Gemma).
    pub(crate) norm_offset: bool,
    /// Norms after attention and MLP too (Gemma).
    pub(crate) sandwich_norms: bool,
    /// Norms on queries and keys per head (Qwen3, Gemma 3).
    pub(crate) qk_norm: bool,
    pub(crate) qkv_bias: bool,
    pub(crate) o_bias: bool,
    pub(crate) mlp_bias: bool,
    pub(crate) activation: Activation,
    pub(crate) tied: bool,
    /// Factor on token embeddings (Gemma).
    pub(crate) embed_scale: Option<f32>,
    /// Factor on attention scores.
    pub(crate) attn_scale: f32,
    /// Scores are `cap * tanh(score / cap)` (Gemma 2).
    pub(crate) attn_softcap: Option<f32>,
    /// The same for logits.
    pub(crate) logit_softcap: Option<f32>,
    pub(crate) eos: Vec<u32>,
}

impl DecoderConfig {
    /// Reads the object of `config.json` at `path` (for messages).
    pub(crate) fn parse(path: &Path, map: &Map<String, Value>) -> Result<Self, BackendError> {
        let c = Object::new(path, map);
        let model_type = c.str("model_type")?.ok_or_else(|| c.error("model_type", "is missing"))?;
        let family = Family::parse(model_type)?;
        reject_unsupported(&c)?;

        let hidden = c.required_size("hidden_size", bounds::WIDTH)?;
        let heads = c.required_size("num_attention_heads", bounds::HEADS)?;
        let kv_heads = c.size("num_key_value_heads", bounds::HEADS)?.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(c.error(
                "num_key_value_heads",
                format!("must divide num_attention_heads {heads}, is {kv_heads}"),
            ));
        }
        let head_dim = head_dim(&c, family, hidden, heads)?;
        let max_positions = c.required_size("max_position_embeddings", bounds::POSITIONS)?;
        let num_layers = c.required_size("num_hidden_layers", bounds::LAYERS)?;
        let attention_bias = c.bool("attention_bias")?.unwrap_or(false);
        let scale_base = match family.is_gemma() {
            true => c.positive("query_pre_attn_scalar")?.unwrap_or(256.0),
            false => head_dim as f64,
        };
        let (layers, ropes) = layers(&c, family, num_layers, head_dim, max_positions)?;
        Ok(Self {
            hidden,
            heads,
            kv_heads,
            head_dim,
            max_positions,
            layers,
            ropes,
            intermediate: c.required_size("intermediate_size", bounds::WIDTH)?,
            vocab: c.required_size("vocab_size", bounds::VOCAB)?,
            norm_eps: c.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            norm_offset: family.is_gemma(),
            sandwich_norms: family.is_gemma(),
            qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
            qkv_bias: family == Family::Qwen2 || (family != Family::Mistral && attention_bias),
            o_bias: !matches!(family, Family::Qwen2 | Family::Mistral) && attention_bias,
            mlp_bias: family == Family::Llama && c.bool("mlp_bias")?.unwrap_or(false),
            activation: activation(&c, family)?,
            tied: c.bool("tie_word_embeddings")?.unwrap_or(family.is_gemma()),
            embed_scale: family.is_gemma().then_some((hidden as f64).sqrt() as f32),
            attn_scale: scale_base.powf(-0.5) as f32,
            attn_softcap: softcap(&c, family, "attn_logit_softcapping")?,
            logit_softcap: softcap(&c, family, "final_logit_softcapping")?,
            eos: c.ids("eos_token_id")?,
        })
    }
}

fn reject_unsupported(c: &Object<'_>) -> Result<(), BackendError> {
    let unsupported =
        |what: String, supported: &str| BackendError::Unsupported { what, supported: supported.to_owned() };
    if let Some(quantization) = c.object("quantization_config")? {
        let method = quantization.str("quant_method")?.unwrap_or("of unknown kind");
        return Err(unsupported(
            format!("a checkpoint quantized by {method}"),
            "f32, f16 and bf16 weights; use the unquantized checkpoint",
        ));
    }
    if c.bool("use_bidirectional_attention")? == Some(true) {
        return Err(unsupported("use_bidirectional_attention".to_owned(), "causal decoders"));
    }
    Ok(())
}

fn head_dim(c: &Object<'_>, family: Family, hidden: usize, heads: usize) -> Result<usize, BackendError> {
    let head_dim = match c.size("head_dim", bounds::HEAD_DIM)? {
        Some(given) => given,
        // The defaults of transformers' config classes, which it leaves out of nothing it writes today.
        None if family == Family::Qwen3 => 128,
        None if family.is_gemma() => 256,
        None if hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return Err(
                c.error("num_attention_heads", format!("must divide hidden_size {hidden}, is {heads}"))
            );
        }
    };
    if head_dim.is_multiple_of(2) {
        Ok(head_dim)
    } else {
        Err(c.error("head_dim", format!("must be even for RoPE, is {head_dim}")))
    }
}

fn activation(c: &Object<'_>, family: Family) -> Result<Activation, BackendError> {
    let name = match family.is_gemma() {
        true => c.str("hidden_activation")?.unwrap_or("gelu_pytorch_tanh"),
        false => c.str("hidden_act")?.unwrap_or("silu"),
    };
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        other => Err(BackendError::Unsupported {
            what: format!("activation {other:?}"),
            supported: "silu, gelu_pytorch_tanh".to_owned(),
        }),
    }
}

fn softcap(c: &Object<'_>, family: Family, key: &str) -> Result<Option<f32>, BackendError> {
    if family.is_gemma() { Ok(c.positive(key)?.map(|cap| cap as f32)) } else { Ok(None) }
}

/// Windows and rotary embeddings, layer by layer.
fn layers(
    c: &Object<'_>,
    family: Family,
    num_layers: usize,
    head_dim: usize,
    max_positions: usize,
) -> Result<(Vec<LayerConfig>, Vec<Rope>), BackendError> {
    let sliding = sliding_layers(c, family, num_layers)?;
    let window = c.size("sliding_window", usize::MAX);
    let window = if sliding.contains(&true) { window? } else { None };
    if sliding.contains(&true) && window.is_none() {
        return Err(c.error("sliding_window", "is missing, but there are sliding_attention layers"));
    }
    let ropes = ropes(c, family, head_dim, max_positions)?;
    let local = ropes.len().saturating_sub(1);
    let layer = |s: &bool| match s {
        true => LayerConfig { window, rope: local },
        false => LayerConfig { window: None, rope: 0 },
    };
    Ok((sliding.iter().map(layer).collect(), ropes))
}

/// Which layers see a sliding window only.
fn sliding_layers(c: &Object<'_>, family: Family, num_layers: usize) -> Result<Vec<bool>, BackendError> {
    let windowed = match family {
        Family::Llama => false,
        Family::Mistral => c.value("sliding_window").is_some(),
        Family::Qwen2 | Family::Qwen3 => {
            c.bool("use_sliding_window")?.unwrap_or(false) && c.value("sliding_window").is_some()
        }
        Family::Gemma2 | Family::Gemma3 => true,
    };
    if !windowed {
        return Ok(vec![false; num_layers]);
    }
    if family == Family::Mistral {
        return Ok(vec![true; num_layers]);
    }
    if let Some(types) = c.array("layer_types")? {
        if types.len() != num_layers {
            return Err(c.error(
                "layer_types",
                format!("has {} entries for num_hidden_layers {num_layers}", types.len()),
            ));
        }
        let sliding = |t: &Value| match t.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => {
                Err(c.error("layer_types", format!("has {t}; supported: full_attention, sliding_attention")))
            }
        };
        return types.iter().map(sliding).collect();
    }
    Ok(match family {
        Family::Gemma2 => (0..num_layers).map(|i| i % 2 == 0).collect(),
        Family::Gemma3 => {
            let pattern = c.size("sliding_window_pattern", bounds::LAYERS)?.unwrap_or(6);
            (1..=num_layers).map(|i| i % pattern != 0).collect()
        }
        _ => {
            let full = match c.value("max_window_layers") {
                Some(v) if v.as_u64() == Some(0) => 0,
                _ => c.size("max_window_layers", usize::MAX)?.unwrap_or(28),
            };
            (0..num_layers).map(|i| i >= full).collect()
        }
    })
}

/// Rotary embeddings: one, or for Gemma 3 that of the full-attention layers and that of the sliding ones.
fn ropes(
    c: &Object<'_>,
    family: Family,
    head_dim: usize,
    max_positions: usize,
) -> Result<Vec<Rope>, BackendError> {
    let params = match c.object("rope_parameters")? {
        Some(params) => Some(params),
        None => c.object("rope_scaling")?,
    };
    let parse = |params, theta| Rope::parse(params, theta, head_dim, max_positions);
    let top_theta = c.positive("rope_theta")?;
    if family != Family::Gemma3 {
        return Ok(vec![parse(params, top_theta.unwrap_or(10_000.0))?]);
    }
    let global_theta = top_theta.unwrap_or(1_000_000.0);
    let local_theta = c.positive("rope_local_base_freq")?.unwrap_or(10_000.0);
    match params {
        Some(p) if p.value("full_attention").is_some() || p.value("sliding_attention").is_some() => Ok(vec![
            parse(p.object("full_attention")?, global_theta)?,
            parse(p.object("sliding_attention")?, local_theta)?,
        ]),
        global => Ok(vec![parse(global, global_theta)?, parse(None, local_theta)?]),
    }
}
