//! Every supported architecture computes what transformers computes.
#![allow(missing_docs)]

mod common;

use avp_backend::{Backend, Input, LEFT_OUT_F32, LEFT_OUT_HALF, ProjectionError, SoftmaxMix, TokenMix};
use avp_backend_candle::{CandleBackend, LoadOptions};
use avp_wire::KvDtype;
use common::{Expected, FIXTURES, distance, embeddings, load};

const TOLERANCE: f32 = 1e-4;

/// Runs `compute`, which returns hidden states `[n, hidden]`, on each fixture and compares logits.
fn check(compute: impl Fn(&dyn Backend, &Expected) -> Vec<f32>) {
    for name in FIXTURES {
        let backend = load(name, KvDtype::F32);
        let expected = Expected::read(name);
        let hidden = compute(&backend, &expected);
        let d = distance(&hidden, &expected.hidden);
        assert!(d < TOLERANCE, "{name}: hidden states differ by {d}");
        let d = distance(&backend.logits(&hidden).unwrap(), &expected.logits);
        assert!(d < TOLERANCE, "{name}: logits differ by {d}");
    }
}

#[test]
fn one_pass_agrees_with_transformers() {
    check(|backend, expected| {
        let mut sequence = backend.new_sequence(0).unwrap();
        sequence.forward_all(Input::Tokens(&expected.tokens)).unwrap()
    });
}

#[test]
fn token_by_token_with_the_cache_agrees_with_transformers() {
    check(|backend, expected| {
        let mut sequence = backend.new_sequence(1).unwrap();
        let step = |t: &u32| sequence.forward(Input::Tokens(std::slice::from_ref(t))).unwrap();
        expected.tokens.iter().flat_map(step).collect()
    });
}

#[test]
fn chunks_of_uneven_lengths_agree_with_transformers() {
    check(|backend, expected| {
        let mut sequence = backend.new_sequence(expected.tokens.len()).unwrap();
        let mut rest = expected.tokens.as_slice();
        let mut hidden = Vec::new();
        for n in [1, 3, 9, 2, 16, 9] {
            let (chunk, after) = rest.split_at(n);
            hidden.append(&mut sequence.forward_all(Input::Tokens(chunk)).unwrap());
            rest = after;
        }
        assert!(rest.is_empty());
        hidden
    });
}

#[test]
fn embeddings_in_place_of_tokens_agree_with_transformers() {
    check(|backend, expected| {
        let mut sequence = backend.new_sequence(0).unwrap();
        let (head, tail) = expected.tokens.split_at(17);
        let mut hidden = sequence.forward_all(Input::Embeddings(&embeddings(backend, head))).unwrap();
        hidden.append(&mut sequence.forward_all(Input::Embeddings(&embeddings(backend, tail))).unwrap());
        hidden
    });
}

#[test]
fn forward_returns_the_last_of_what_forward_all_returns() {
    for name in FIXTURES {
        let backend = load(name, KvDtype::F32);
        let expected = Expected::read(name);
        let (_, hidden) = common::prefilled(&backend, &expected.tokens);
        let all = backend.new_sequence(0).unwrap().forward_all(Input::Tokens(&expected.tokens)).unwrap();
        assert_eq!(hidden, all[all.len() - hidden.len()..], "{name}");
    }
}

#[test]
fn mixes_are_embeddings_as_layer_0_takes_them() {
    for name in FIXTURES {
        let backend = load(name, KvDtype::F32);
        let probe = Expected::read(name).probe;
        let vocab = backend.info().vocab_size;
        let mut one_hot = vec![0f32; vocab];
        one_hot[5] = 1.0;
        for mix in [TokenMix::Sparse { ids: &[5], weights: &[1.0] }, TokenMix::Dense(&one_hot)] {
            assert!(distance(&backend.embed_mix(&[mix]).unwrap(), &probe) < 1e-6, "{name}: {mix:?}");
        }
        let weights: Vec<f32> = (0..vocab).map(|i| (i as f32 * 0.7).sin()).collect();
        let ids: Vec<u32> = (0..vocab as u32).collect();
        let sparse = backend.embed_mix(&[TokenMix::Sparse { ids: &ids, weights: &weights }]).unwrap();
        let dense = backend.embed_mix(&[TokenMix::Dense(&weights)]).unwrap();
        assert!(distance(&sparse, &dense) < 1e-3, "{name}");
    }
}

#[test]
fn a_soft_embedding_in_one_pass_is_that_of_logits_softmax_and_mix() {
    let mut in_one_pass = 0;
    for name in FIXTURES {
        for (dtype, left_out, tolerance) in
            [(KvDtype::F32, LEFT_OUT_F32, 1e-5), (KvDtype::Bf16, LEFT_OUT_HALF, 1e-3)]
        {
            let backend = load(name, dtype);
            let hidden = Expected::read(name).hidden;
            for hidden in hidden.chunks_exact(backend.info().identity.hidden_dim as usize) {
                let Some(one_pass) = backend.soft_embedding(hidden, left_out).unwrap() else {
                    assert!(!backend.info().tied_embeddings, "{name}");
                    continue;
                };
                let mix = SoftmaxMix::from_logits(&backend.logits(hidden).unwrap(), 1.0, 0.0).unwrap();
                let expected = backend.embed_mix(&[mix.as_token_mix()]).unwrap();
                let d = distance(&one_pass, &expected);
                assert!(d < tolerance, "{name}: {d}");
                in_one_pass += 1;
            }
        }
    }
    assert!(in_one_pass > 0);
    let backend = load("qwen2-tied", KvDtype::F32);
    let mut hidden = vec![0f32; backend.info().identity.hidden_dim as usize];
    assert!(matches!(backend.soft_embedding(&hidden[1..], 0.0), Err(ProjectionError::Backend(_))));
    hidden[3] = f32::NAN;
    assert!(matches!(backend.soft_embedding(&hidden, 0.0), Err(ProjectionError::NonFinite(_))));
}

#[test]
fn one_long_pass_agrees_with_short_ones() {
    for name in ["qwen2-tied", "qwen2-window", "gemma2", "gemma3"] {
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            std::fs::copy(common::folder(name).join(file), folder.path().join(file)).unwrap();
        }
        let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
        let longer = config.replace("\"max_position_embeddings\": 256", "\"max_position_embeddings\": 2048");
        assert_ne!(config, longer);
        std::fs::write(folder.path().join("config.json"), longer).unwrap();
        let options = LoadOptions { cache_dir: Some(folder.path().into()), ..LoadOptions::default() };
        let backend = CandleBackend::load(folder.path(), &options).unwrap();

        let tokens: Vec<u32> = (0..1300).map(|i| 3 + i * i % 89).collect();
        let long = backend.new_sequence(0).unwrap().forward_all(Input::Tokens(&tokens)).unwrap();
        let mut sequence = backend.new_sequence(0).unwrap();
        let short: Vec<f32> =
            tokens.chunks(130).flat_map(|c| sequence.forward_all(Input::Tokens(c)).unwrap()).collect();
        let d = distance(&long, &short);
        assert!(d < TOLERANCE, "{name}: {d}");
    }
}
