//! Times one latent step on the shape of Qwen2.5-0.5B with random weights, and the export of its cache.
//!
//! `cargo run --release -p avp-backend-candle --example step -- [f32|bf16|f16]`
//!
//! Prints ratios: the projection against one pass of `logits`, export against memcpy, both in this process.
#![allow(clippy::print_stdout)]

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use avp_backend::{Backend, Input, KvRange, TokenMix};
use avp_backend_candle::{CandleBackend, LoadOptions};
use avp_wire::KvDtype;

const HIDDEN: usize = 896;
const WIDE: usize = 4864;
const LAYERS: usize = 24;
const VOCAB: usize = 151_936;
const KV: usize = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dtype = match std::env::args().nth(1).as_deref() {
        None | Some("f32") => KvDtype::F32,
        Some("bf16") => KvDtype::Bf16,
        Some("f16") => KvDtype::F16,
        Some(other) => return Err(format!("no type {other}; give f32, bf16 or f16").into()),
    };
    let folder = tempfile::tempdir()?;
    write_model(folder.path())?;
    let cache_dir = Some(folder.path().to_path_buf());
    let options = LoadOptions { dtype: Some(dtype), cache_dir, ..LoadOptions::default() };
    let (load, backend) = timed(|| CandleBackend::load(folder.path(), &options));
    let backend = backend?;
    println!("load {load:?}, {dtype:?}");
    steps(&backend)?;
    export(&backend)
}

fn steps(backend: &CandleBackend) -> Result<(), Box<dyn std::error::Error>> {
    let tokens: Vec<u32> = (0..512).map(|i| i * 97 % 1000).collect();
    let mut sequence = backend.new_sequence(600)?;
    let (prefill, hidden) = timed(|| sequence.forward(Input::Tokens(&tokens)));
    let hidden = hidden?;
    println!("prefill of 512 tokens {prefill:?}");
    let logits_pass = median(|| backend.logits(&hidden).map(drop));
    let logits = backend.logits(&hidden)?;
    let mean = logits.iter().sum::<f32>() / VOCAB as f32;
    let std = (logits.iter().map(|l| (l - mean).powi(2)).sum::<f32>() / VOCAB as f32).sqrt();
    let probabilities = softmax(&logits);
    let (ids, weights) = few(&probabilities);
    let sparse = TokenMix::Sparse { ids: &ids, weights: &weights };
    let sparse_mix = median(|| backend.embed_mix(&[sparse]).map(drop));
    let dense_mix = median(|| backend.embed_mix(&[TokenMix::Dense(&probabilities)]).map(drop));
    let ratio = |d: Duration| d.as_secs_f64() / logits_pass.as_secs_f64();
    println!("logits {logits_pass:?}, standard deviation {std:.2}");
    println!("sparse mix of {} ids {sparse_mix:?}, {:.3} of a logits pass", ids.len(), ratio(sparse_mix));
    println!("dense mix {dense_mix:?}, {:.3} of a logits pass", ratio(dense_mix));
    let embedding = backend.embed_mix(&[sparse])?;
    let step = median(|| sequence.forward(Input::Embeddings(&embedding)).map(drop));
    println!("decoder step at 512 tokens {step:?}");
    Ok(())
}

fn export(backend: &CandleBackend) -> Result<(), Box<dyn std::error::Error>> {
    let mut sequence = backend.new_sequence(20_000)?;
    let range = KvRange { layers: 0..LAYERS, tokens: 0..16_384 };
    let size = sequence.kv_dtype().size();
    let mut out = vec![1u8; LAYERS * 2 * KV * range.tokens.len() * size];
    let source = out.clone();
    sequence.import_kv(&range, sequence.kv_dtype(), &source)?;
    let memcpy = median(|| {
        out.copy_from_slice(std::hint::black_box(&source));
        std::hint::black_box(&mut out);
        Ok(())
    });
    let import = median(|| sequence.import_kv(&range, sequence.kv_dtype(), &source));
    let export = median(|| sequence.export_kv(&range, &mut out));
    let ratio = |d: Duration| memcpy.as_secs_f64() / d.as_secs_f64();
    println!("memcpy of {} MiB {memcpy:?}", out.len() >> 20);
    println!("export {export:?}, {:.2} of memcpy speed", ratio(export));
    println!("import {import:?}, {:.2} of memcpy speed", ratio(import));
    Ok(())
}

fn timed<T>(f: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = f();
    (start.elapsed(), value)
}

fn median(mut f: impl FnMut() -> Result<(), avp_backend::BackendError>) -> Duration {
    let mut times: Vec<_> = (0..9)
        .map(|_| {
            let (time, result) = timed(&mut f);
            if let Err(e) = result {
                println!("{e}");
            }
            time
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f32> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f32 = exp.iter().sum();
    exp.into_iter().map(|e| e / sum).collect()
}

/// The fewest ids whose left-out mass is at most 1e-6.
fn few(probabilities: &[f32]) -> (Vec<u32>, Vec<f32>) {
    let mut order: Vec<u32> = (0..VOCAB as u32).collect();
    order.sort_by(|a, b| probabilities[*b as usize].total_cmp(&probabilities[*a as usize]));
    let mut left = 1.0 - 1e-6;
    let kept = order.iter().take_while(|id| {
        let go_on = left > 0.0;
        left -= f64::from(probabilities[**id as usize]);
        go_on
    });
    let mut ids: Vec<u32> = kept.copied().collect();
    ids.sort_unstable();
    let weights = ids.iter().map(|id| probabilities[*id as usize]).collect();
    (ids, weights)
}

/// A model folder with random f32 weights; the final norm is scaled so that logits deviate by about 5.
fn write_model(folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/qwen2-tied");
    std::fs::copy(fixture.join("tokenizer.json"), folder.join("tokenizer.json"))?;
    let config = serde_json::json!({
        "model_type": "qwen2", "hidden_size": HIDDEN, "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS, "num_attention_heads": 14, "num_key_value_heads": 2,
        "vocab_size": VOCAB, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0, "tie_word_embeddings": true,
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;

    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for i in 0..LAYERS {
        for (name, shape) in [
            ("self_attn.q_proj.weight", vec![HIDDEN, HIDDEN]),
            ("self_attn.q_proj.bias", vec![HIDDEN]),
            ("self_attn.k_proj.weight", vec![KV, HIDDEN]),
            ("self_attn.k_proj.bias", vec![KV]),
            ("self_attn.v_proj.weight", vec![KV, HIDDEN]),
            ("self_attn.v_proj.bias", vec![KV]),
            ("self_attn.o_proj.weight", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj.weight", vec![WIDE, HIDDEN]),
            ("mlp.up_proj.weight", vec![WIDE, HIDDEN]),
            ("mlp.down_proj.weight", vec![HIDDEN, WIDE]),
            ("input_layernorm.weight", vec![HIDDEN]),
            ("post_attention_layernorm.weight", vec![HIDDEN]),
        ] {
            tensors.push((format!("model.layers.{i}.{name}"), shape));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in &tensors {
        let start = end;
        end += shape.iter().product::<usize>() * 4;
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = 88_172_645_463_325_252u64;
    for (name, shape) in &tensors {
        // Uniform with standard deviation 0.02, as untrained models are; logits then deviate by 0.6 * norm.
        let (center, width) = match name.as_str() {
            "model.norm.weight" => (5.0 / (0.02 * (HIDDEN as f32).sqrt()), 0.0),
            n if n.contains("norm") => (1.0, 0.0),
            _ => (0.0, 0.02 * 12f32.sqrt()),
        };
        for _ in 0..shape.iter().product::<usize>() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let uniform = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            file.write_all(&(center + width * uniform).to_le_bytes())?;
        }
    }
    file.flush()?;
    Ok(())
}
