//! The fixtures and what transformers computed with them.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::path::PathBuf;

use avp_backend::{Backend, Input, Sequence, TokenMix};
use avp_backend_candle::{CandleBackend, LoadOptions};
use avp_wire::KvDtype;
use safetensors::SafeTensors;

pub const FIXTURES: [&str; 15] = [
    "gemma2",
    "gemma3",
    "gemma3-old-config",
    "llama-linear",
    "llama-yarn",
    "llama2-mha",
    "llama3-gqa-bias",
    "llama3-old-config",
    "mistral-full",
    "mistral-window",
    "qwen2-tied",
    "qwen2-untied-sharded",
    "qwen2-window",
    "qwen3-bias",
    "qwen3-tied",
];

pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn load(name: &str, dtype: KvDtype) -> CandleBackend {
    let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
    CandleBackend::load(folder(name), &options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What transformers computed.
pub struct Expected {
    pub tokens: Vec<u32>,
    /// `[n, vocab]`
    pub logits: Vec<f32>,
    /// `[n, hidden]`
    pub hidden: Vec<f32>,
    /// `[hidden]`
    pub probe: Vec<f32>,
}

impl Expected {
    pub fn read(name: &str) -> Self {
        let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let raw = |name: &str| tensors.tensor(name).unwrap().data().to_vec();
        let floats = |name: &str| raw(name).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Self {
            tokens: raw("tokens").as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect(),
            logits: floats("logits"),
            hidden: floats("hidden"),
            probe: floats("probe"),
        }
    }

    pub fn last_logits(&self) -> &[f32] {
        &self.logits[self.logits.len() - self.logits.len() / self.tokens.len()..]
    }
}

/// Largest absolute difference; infinite where lengths differ or a value is not finite.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let distances = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    distances.map(|d| if d.is_finite() { d } else { f32::INFINITY }).fold(0.0, f32::max)
}

/// Input embeddings of `tokens`, through mixes of single tokens.
pub fn embeddings(backend: &dyn Backend, tokens: &[u32]) -> Vec<f32> {
    let mixes: Vec<_> =
        tokens.iter().map(|t| TokenMix::Sparse { ids: std::slice::from_ref(t), weights: &[1.0] }).collect();
    backend.embed_mix(&mixes).unwrap()
}

/// A sequence that has read `tokens`, and the hidden state of the last.
pub fn prefilled(backend: &dyn Backend, tokens: &[u32]) -> (Box<dyn Sequence>, Vec<f32>) {
    let mut sequence = backend.new_sequence(tokens.len()).unwrap();
    let hidden = sequence.forward(Input::Tokens(tokens)).unwrap();
    (sequence, hidden)
}
