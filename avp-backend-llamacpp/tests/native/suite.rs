//! The suite that every engine passes, on the demo models and on models with heads of 64 and 128 channels, whose keys and values
//! llama.cpp rotates before it quantises them.

use std::path::{Path, PathBuf};

use avp_backend_llamacpp::{KvType, LlamaCppBackend};

use crate::load;
use crate::random::Shape;

/// What follows where a value falls on the other side of a step of 8 bits.
const QUANTISED: f32 = 3e-2;

fn demo(name: &str, kv_type: KvType, flash_attention: bool) -> LlamaCppBackend {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/gguf");
    load(&folder.join(format!("{name}.gguf")), kv_type, flash_attention)
}

fn random(shape: &Shape, kv_type: KvType, flash_attention: bool) -> LlamaCppBackend {
    load(shape.write().path(), kv_type, flash_attention)
}

mod llama_f16 {
    avp_backend::backend_suite!(super::demo("avp-demo-llama-f16", super::KvType::F16, true));
}

mod qwen2_with_logits_of_the_pass {
    avp_backend::backend_suite!({
        let mut options = avp_backend_llamacpp::LoadOptions::default();
        // Where there is no GPU it changes who computes the logits, and nothing else.
        options.gpu_layers = 1;
        options.threads = Some(1);
        let file = "../models/gguf/avp-demo-qwen2-m-f16.gguf";
        super::LlamaCppBackend::load(super::Path::new(env!("CARGO_MANIFEST_DIR")).join(file), &options)
            .unwrap()
    });
}

mod llama_f32_without_flash_attention {
    avp_backend::backend_suite!(super::demo("avp-demo-llama-f16", super::KvType::F32, false));
}

mod qwen2_bf16 {
    avp_backend::backend_suite!(super::demo("avp-demo-qwen2-m-f16", super::KvType::Bf16, true));
}

mod qwen2_q8 {
    avp_backend::backend_suite!(super::demo("avp-demo-qwen2-s-q8_0", super::KvType::Q8, true));
}

mod llama_heads_of_64_q8 {
    avp_backend::backend_suite!(
        super::random(&super::Shape::LLAMA_64, super::KvType::Q8, true),
        within = super::QUANTISED
    );
}

mod qwen2_heads_of_128_q8 {
    avp_backend::backend_suite!(
        super::random(&super::Shape::QWEN2_128, super::KvType::Q8, true),
        within = super::QUANTISED
    );
}

mod llama_heads_of_64_f16_without_flash_attention {
    avp_backend::backend_suite!(super::random(&super::Shape::LLAMA_64, super::KvType::F16, false));
}
