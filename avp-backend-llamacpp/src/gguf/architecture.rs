//! Architectures of llama.cpp that keep something else than one key and one value of every token in every layer.

use super::error::{GgufError, GgufFault};
use super::file::GgufFile;
use crate::shown::shown;

/// Refuses, by name, models whose cache cannot be shared.
pub(super) fn check(file: &GgufFile, architecture: &str) -> Result<(), GgufError> {
    let key = |name: &str| format!("{architecture}.{name}");
    let has = |name: &str| file.value(&key(name)).is_some();
    let named = shown(architecture);
    let refuse = |fault| Err(file.error(fault));

    if RECURRENT.contains(&architecture) || RECURRENT_KEYS.iter().any(|name| has(name)) {
        return refuse(GgufFault::Recurrent { architecture: named });
    }
    let causal = file.find_bool(&key("attention.causal"))?.unwrap_or(true);
    if !causal || NOT_CAUSAL.contains(&architecture) {
        return refuse(GgufFault::NotCausal { architecture: named });
    }
    if LATENT_KEYS.iter().any(|name| has(name)) {
        return refuse(GgufFault::LatentAttention { architecture: named });
    }
    let window = file.find_u32(&key("attention.sliding_window"))?;
    let sliding = match window {
        Some(window) => window > 0 || SLIDING.contains(&architecture),
        None => SLIDING.contains(&architecture) || SLIDING_BY_DEFAULT.contains(&architecture),
    };
    if sliding {
        return refuse(GgufFault::SlidingWindow { architecture: named });
    }
    let shared = file.find_u32(&key("attention.shared_kv_layers"))?.unwrap_or(0);
    if shared > 0 {
        return refuse(GgufFault::UnequalLayers { what: "which of them keep a cache".to_owned() });
    }
    Ok(())
}

/// `llm_arch_is_recurrent` and `llm_arch_is_hybrid` of src/llama-arch.cpp.
const RECURRENT: &[&str] = &[
    "arwkv7",
    "bailingmoe3",
    "deepseek4",
    "falcon-h1",
    "glm5-next",
    "granitehybrid",
    "jamba",
    "kimi-k3",
    "kimi-linear",
    "lfm2",
    "lfm2moe",
    "mamba",
    "mamba2",
    "minimax-01",
    "nemotron_h",
    "nemotron_h_moe",
    "plamo2",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
    "rwkv6",
    "rwkv6qwen2",
    "rwkv7",
];

/// Keys that only models with a recurrent state have, so that new architectures are refused too.
const RECURRENT_KEYS: &[&str] = &[
    "attention.recurrent_layers",
    "full_attention_interval",
    "kda.head_dim",
    "shortconv.l_cache",
    "ssm.conv_kernel",
    "ssm.state_size",
    "wkv.head_size",
];

/// Encoders, diffusion models, draft heads, vocoders.
const NOT_CAUSAL: &[&str] = &[
    "bert",
    "clip",
    "dflash",
    "dream",
    "eagle3",
    "eurobert",
    "gemma-embedding",
    "gemma4-assistant",
    "jina-bert-v2",
    "jina-bert-v3",
    "llada",
    "llada-moe",
    "llama-embed",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
    "pockettts",
    "qwen3tts",
    "rnd1",
    "t5",
    "t5encoder",
    "wavtokenizer-dec",
];

/// Keys of multi-head latent attention and of sparse attention with an indexer.
const LATENT_KEYS: &[&str] = &[
    "attention.indexer.head_count",
    "attention.key_length_mla",
    "attention.kv_lora_rank",
    "attention.kv_lora_rank_swa",
];

/// Architectures that have a window whatever the metadata say.
const SLIDING: &[&str] = &[
    "cohere2",
    "cohere2moe",
    "dots3note",
    "exaone-moe",
    "gemma2",
    "gemma3n",
    "gemma4",
    "gpt-oss",
    "granite_swa",
    "maple",
    "mimo2",
    "muse-glimmer",
    "spark2_5",
    "step35",
];

/// Architectures that have a window unless the metadata say that it is 0.
const SLIDING_BY_DEFAULT: &[&str] = &["llama4"];
