//! The suite that every engine passes, on the demo models.
#![allow(missing_docs)]

use std::path::PathBuf;

use avp_backend_candle::{CandleBackend, LoadOptions};
use avp_wire::KvDtype;

fn load(name: &str, dtype: KvDtype) -> CandleBackend {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models").join(name);
    let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
    CandleBackend::load(folder, &options).unwrap()
}

mod llama_f32 {
    avp_backend::backend_suite!(super::load("avp-demo-llama", super::KvDtype::F32));
}

mod qwen2_f16 {
    avp_backend::backend_suite!(super::load("avp-demo-qwen2-m", super::KvDtype::F16));
}

mod qwen2_bf16 {
    avp_backend::backend_suite!(super::load("avp-demo-qwen2-s", super::KvDtype::Bf16));
}
