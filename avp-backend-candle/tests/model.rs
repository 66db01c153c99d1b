//! What a loaded model says about itself, its tokenizer, and its tables.
#![allow(missing_docs)]

mod common;

use std::sync::{Arc, Mutex};

use avp_backend::{Backend, LatentProjection};
use avp_backend_candle::{CandleBackend, LoadOptions};
use avp_wire::KvDtype;
use common::{FIXTURES, folder, load};

#[test]
fn info_states_what_the_files_state() {
    let backend = load("qwen2-untied-sharded", KvDtype::Bf16);
    let info = backend.info();
    let id = &info.identity;
    assert_eq!((id.model_family.as_str(), id.model_id.as_str()), ("qwen2", "qwen2-untied-sharded"));
    assert_eq!((id.hidden_dim, id.num_layers, id.num_kv_heads, id.head_dim), (32, 2, 2, 8));
    assert_eq!((id.model_hash.len(), id.tokenizer_hash.len()), (64, 64));
    assert_eq!((info.num_heads, info.vocab_size, info.max_positions), (4, 96, 256));
    assert_eq!((info.tied_embeddings, info.dtype, info.device.as_str()), (false, KvDtype::Bf16, "cpu"));
    assert_eq!(info.stop_tokens, [2, backend.codec().vocab()["<|im_end|>"]]);
    assert!(info.chat_template.as_ref().is_some_and(|t| t.contains("<|im_start|>")));
    assert_eq!(info.special_tokens["bos_token"], "<s>");
    assert_eq!(info.special_tokens["eos_token"], "</s>");
    assert_eq!(info.source, folder("qwen2-untied-sharded"));
}

#[test]
fn the_weights_fingerprint_names_the_checkpoint_and_not_the_type_it_is_loaded_in() {
    let cache = tempfile::tempdir().unwrap();
    let weights = |name: &str, dtype| {
        let cache_dir = Some(cache.path().to_path_buf());
        let options = LoadOptions { dtype: Some(dtype), cache_dir, ..LoadOptions::default() };
        CandleBackend::load(folder(name), &options).unwrap().info().weights.clone().unwrap()
    };
    let first = weights("qwen2-tied", KvDtype::F32);
    assert_eq!(first.len(), 64);
    assert_eq!(first, weights("qwen2-tied", KvDtype::F16));
    assert_ne!(first, weights("qwen2-window", KvDtype::F32));
    assert!(cache.path().join("fingerprints").is_dir());
}

#[test]
fn the_given_model_id_wins_and_progress_is_told_to_the_end() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let options = LoadOptions {
        model_id: Some("me/mine".into()),
        cache_dir: Some(tempfile::tempdir().unwrap().path().to_path_buf()),
        progress: Some(Arc::new(move |p| told.lock().unwrap().push(p.clone()))),
        ..LoadOptions::default()
    };
    let backend = CandleBackend::load(folder("qwen2-untied-sharded"), &options).unwrap();
    assert_eq!(backend.info().identity.model_id, "me/mine");
    let seen = seen.lock().unwrap();
    for what in ["weights", "fingerprint"] {
        let last = seen.iter().rfind(|p| p.what == what).unwrap();
        assert!(last.done == last.total && last.total > 0, "{last:?}");
    }
}

#[test]
fn the_tokenizer_does_what_transformers_does() {
    let text = std::fs::read(folder("tokenizer.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let ids: Vec<u32> =
        expected["ids"].as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect();
    let backend = load("qwen2-tied", KvDtype::F32);
    let codec = backend.codec();
    assert_eq!(codec.encode(expected["text"].as_str().unwrap(), true).unwrap(), ids);
    assert_eq!(codec.decode(&ids, true).unwrap(), expected["decoded"].as_str().unwrap());
    assert_eq!(codec.decode(&ids, false).unwrap(), expected["text"].as_str().unwrap());
}

/// `[rows, dim]` of an embedding table, as layer 0 takes it.
fn table(backend: &dyn Backend) -> Vec<f64> {
    let ids: Vec<u32> = (0..backend.info().vocab_size as u32).collect();
    common::embeddings(backend, &ids).into_iter().map(f64::from).collect()
}

#[test]
fn realignment_products_and_norms_are_those_of_the_tables() {
    for name in FIXTURES {
        let backend = load(name, KvDtype::F32);
        let dim = backend.info().identity.hidden_dim as usize;
        let input = table(&backend);
        let products = backend.realignment_products().unwrap();
        assert_eq!((products.gram.len(), products.cross.len()), (dim * dim, dim * dim));
        // The rows of the output head through logits of unit vectors, where no cap bends them.
        let norm = input.chunks(dim).map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).sum::<f64>();
        let mean = norm / backend.info().vocab_size as f64;
        assert!((f64::from(backend.mean_embedding_norm().unwrap()) - mean).abs() < 1e-4 * mean, "{name}");
        if name == "gemma2" {
            continue;
        }
        let mut unit = vec![0f32; dim * dim];
        (0..dim).for_each(|i| unit[i * dim + i] = 1.0);
        let output = backend.logits(&unit).unwrap();
        let vocab = backend.info().vocab_size;
        for i in 0..dim {
            for j in 0..dim {
                let out = |d: usize, v: usize| f64::from(output[d * vocab + v]);
                let gram: f64 = (0..vocab).map(|v| out(i, v) * out(j, v)).sum();
                let cross: f64 = (0..vocab).map(|v| out(i, v) * input[v * dim + j]).sum();
                assert!((products.gram[i * dim + j] - gram).abs() < 1e-3, "{name}");
                assert!((products.cross[i * dim + j] - cross).abs() < 1e-3 * mean.max(1.0), "{name}");
            }
        }
    }
}

#[test]
fn on_a_processor_copies_have_a_rate_and_no_step_is_queued_ahead() {
    let backend = load("qwen2-tied", KvDtype::F32);
    for bytes in [1, 300_000] {
        let copies = backend.copy_bandwidth(bytes).unwrap();
        assert!(copies.to_host > 0.0 && copies.to_host.is_finite() && copies.from_host == copies.to_host);
    }
    assert!(backend.copy_bandwidth(usize::MAX).is_err());
    let projection = LatentProjection::SoftEmbedding;
    assert_eq!(backend.queued_steps(4, &projection).unwrap(), None);
    for past in [0, backend.info().max_positions, usize::MAX] {
        assert!(backend.queued_steps(past, &projection).is_err(), "{past}");
    }
}
