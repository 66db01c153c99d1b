//! The engine, on llama.cpp.
#![cfg(feature = "native")]
#![allow(missing_docs)]

mod caches;
mod random;
mod sessions;
mod suite;
#[path = "../gguf/writer.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod writer;

use std::path::Path;

use avp_backend_llamacpp::{KvType, LlamaCppBackend, LoadOptions};

fn load(path: &Path, kv_type: KvType, flash_attention: bool) -> LlamaCppBackend {
    let mut options = LoadOptions::default();
    options.kv_type = kv_type;
    options.flash_attention = flash_attention;
    // Tests run beside each other, and the models are small.
    options.threads = Some(1);
    LlamaCppBackend::load(path, &options).unwrap()
}
