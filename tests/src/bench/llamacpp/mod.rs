//! The llama.cpp backend, beside the same operations by plain calls of llama.cpp, and beside memcpy.

pub(crate) mod gguf;
mod latent;
mod plain;
mod speed;
mod state;

use std::path::Path;

use anyhow::Result;
use avp_backend_llamacpp::{KvType, LlamaCppBackend, LoadOptions};

use crate::report::Group;
use crate::shape::Shape;
use gguf::Weights;

/// Prefill, decode, latent steps and the KV cache. Model files are kept in `models`.
pub(crate) fn run(models: &Path) -> Result<Group> {
    let mut group = Group::new("llama.cpp, Qwen2.5-0.5B shape, random weights, tied");
    for weights in [Weights::F16, Weights::Q8] {
        let path = gguf::file("qwen2.5-0.5b", &Shape::HALF_B, weights, models)?;
        let backend = LlamaCppBackend::load(&path, &LoadOptions::default())?;
        speed::measure(&mut group, weights.name(), &backend, &path)?;
        latent::measure(&mut group, weights.name(), &backend)?;
    }
    let path = gguf::file("qwen2.5-0.5b-cache", &Shape::HALF_B_CACHE, Weights::F16, models)?;
    for (name, kv_type) in [("f16", KvType::F16), ("q8_0", KvType::Q8)] {
        let mut options = LoadOptions::default();
        options.kv_type = kv_type;
        let backend = LlamaCppBackend::load(&path, &options)?;
        state::measure(&mut group, name, &backend)?;
    }
    notes(&mut group);
    Ok(group)
}

fn notes(group: &mut Group) {
    group.note(format!(
        "both sides: {} threads, the file mapped, f16 cache, flash attention; the plain side calls llama_decode and llama_get_logits_ith without a callback, once with the threads that llama.cpp starts for every pass and once with a pool of threads that stay (llama_attach_threadpool)",
        rayon::current_num_threads()
    ));
    speed::notes(group);
    latent::notes(group);
    state::notes(group);
}
