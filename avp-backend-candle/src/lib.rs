//! Safetensors models on candle: the engine behind [`avp_backend::Backend`] that runs Hugging Face folders.
//!
//! [`CandleBackend::load`] takes a folder (`config.json`, `tokenizer.json`, `*.safetensors`) or a hub id and
//! [`LoadOptions`]; what comes back is used through the traits of `avp-backend`.
//!
//! Architectures: Llama 2 and 3, Mistral, Qwen2/2.5, Qwen3, Gemma 2 and Gemma 3 (text). Types: f32, f16 and
//! bf16 for weights and KV cache; on the CPU activations are f32 whatever the weights are.
//!
//! The decoder is this crate's own, because candle-transformers keeps its caches private: here keys and values
//! lie in preallocated tensors `[1, kv_heads, capacity, head_dim]` per layer, appended in place, copied on the
//! first write after a fork, and exported and imported as canonical KV without intermediate tensors.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod backend;
mod bandwidth;
mod cache;
mod canonical;
mod codec;
mod config;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod error;
mod fingerprint;
mod folder;
#[cfg(feature = "hub")]
mod hub;
mod kernels;
mod mmap;
mod options;
mod pieces;
mod queued;
mod sequence;
mod shape;
mod vocabulary;
mod weights;

pub use backend::CandleBackend;
pub use bandwidth::CopyBandwidth;
pub use options::{Device, LoadOptions, LoadProgress, ProgressFn};
pub use queued::QueuedSteps;
pub use shape::{Shape, UnknownShape};
