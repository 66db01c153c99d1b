//! The suite that every engine passes, on the demo models and the first GPU. Where none opens, its tests say so and pass, unless
//! `AVP_GPU_TESTS=required`.
#![cfg(feature = "cuda")]
#![allow(missing_docs)]

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use avp_backend_candle::{CandleBackend, Device, LoadOptions};
use avp_wire::KvDtype;

/// Whether there is a GPU; said once if not.
static GPU: LazyLock<bool> = LazyLock::new(|| {
    let Err(error) = candle_core::Device::new_cuda(0) else { return true };
    let required = std::env::var_os("AVP_GPU_TESTS").is_some_and(|value| value == "required");
    assert!(!required, "no GPU opens: {error}");
    // Not what tests print, which is shown only of those that fail.
    let _ = writeln!(std::io::stderr(), "skipped, since no GPU opens: {error}");
    false
});

/// None without a GPU.
fn load(name: &str, dtype: KvDtype) -> Option<CandleBackend> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models").join(name);
    let options = LoadOptions { dtype: Some(dtype), device: Device::Cuda(0), ..LoadOptions::default() };
    GPU.then(|| CandleBackend::load(folder, &options).unwrap())
}

macro_rules! suite {
    ($model:literal, $dtype:expr) => {
        avp_backend::backend_suite!(match super::load($model, $dtype) {
            Some(backend) => backend,
            None => return,
        });
    };
}

mod llama_f32 {
    suite!("avp-demo-llama", super::KvDtype::F32);
}

mod qwen2_f32 {
    suite!("avp-demo-qwen2-m", super::KvDtype::F32);
}

mod qwen2_bf16 {
    suite!("avp-demo-qwen2-s", super::KvDtype::Bf16);
}
