//! GGUF models on llama.cpp, for [`avp_backend`](https://docs.rs/avp-backend).
//!
//! [`LlamaCppBackend`] is the engine (feature `native`, which builds llama.cpp from source). [`gguf::GgufFile`] judges a GGUF
//! file before llama.cpp sees it, and gives its metadata, tensors, a [`gguf::ModelMeta`] and the [`gguf::Vocabulary`] that the
//! tokenizer hash is made of. [`ollama::ModelName`] and [`ollama::Store`] find the GGUF file behind `ollama:NAME[:TAG]`.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)
)]

#[cfg(feature = "native")]
mod backend;
#[cfg(feature = "native")]
mod cache;
#[cfg(feature = "native")]
mod codec;
#[cfg(feature = "native")]
mod ffi;
pub mod gguf;
#[cfg(feature = "native")]
mod image;
#[cfg(feature = "native")]
mod loaded;
pub mod ollama;
mod options;
#[cfg(feature = "native")]
mod probe;
#[cfg(feature = "native")]
mod sequence;
mod shown;
#[cfg(feature = "native")]
mod state;

#[cfg(feature = "native")]
pub use backend::LlamaCppBackend;
pub use options::{KvType, LoadOptions, Probe};
#[cfg(feature = "native")]
pub use probe::try_file;
