//! Whatever the type and layout of llama.cpp's cache, the keys and values that come out of it are the same.

use avp_backend::testing::suite::floats;
use avp_backend::{Backend, Input, KvRange, TokenMix};
use avp_backend_llamacpp::{KvType, LlamaCppBackend};

use crate::load;
use crate::random::Shape;

const TOKENS: usize = 70;

/// Canonical keys and values, layer by layer.
fn captured(shape: &Shape, kv_type: KvType, flash_attention: bool) -> Vec<Vec<f32>> {
    let backend = load(shape.write().path(), kv_type, flash_attention);
    let mut sequence = backend.new_sequence(TOKENS).unwrap();
    sequence.forward(Input::Tokens(&ids())).unwrap();
    let identity = &backend.info().identity;
    let elements = 2 * (identity.num_kv_heads * identity.head_dim) as usize * TOKENS;
    let layer = |layer| {
        let mut out = vec![0; elements * sequence.kv_dtype().size()];
        sequence.export_kv(&KvRange { layers: layer..layer + 1, tokens: 0..TOKENS }, &mut out).unwrap();
        floats(sequence.kv_dtype(), &out)
    };
    (0..identity.num_layers as usize).map(layer).collect()
}

fn ids() -> Vec<u32> {
    (0..TOKENS as u32).map(|i| i * 53 % 256).collect()
}

/// Root of the mean square of the differences, as a share of that of `b`.
fn relative_rms(a: &[f32], b: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    (square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())).sqrt()
}

const KINDS: [(KvType, bool); 7] = [
    (KvType::F32, true),
    (KvType::F32, false),
    (KvType::F16, true),
    (KvType::F16, false),
    (KvType::Bf16, true),
    (KvType::Bf16, false),
    (KvType::Q8, true),
];

#[test]
fn a_context_that_a_sequence_has_left_computes_as_a_new_one_does() {
    for (kv_type, flash_attention) in KINDS {
        let file = Shape::LLAMA_64.write();
        let backend = load(file.path(), kv_type, flash_attention);
        let mut original = backend.new_sequence(TOKENS + 8).unwrap();
        let mut hidden = vec![original.forward(Input::Tokens(&ids())).unwrap()];
        let range = |tokens| KvRange { layers: 0..backend.info().identity.num_layers as usize, tokens };
        let each = {
            let identity = &backend.info().identity;
            2 * (identity.num_layers * identity.num_kv_heads * identity.head_dim) as usize
                * original.kv_dtype().size()
        };
        let mut lens = vec![TOKENS];
        let mut exported = Vec::new();
        for len in [TOKENS, 20, 1] {
            let mut bytes = vec![0; each * len];
            original.export_kv(&range(0..len), &mut bytes).unwrap();
            exported.push(bytes);
        }
        hidden.push(original.forward(Input::Tokens(&[7, 8])).unwrap());
        // Longer, equal, shorter than what the context held before, and after a sequence that imported nothing.
        for (bytes, len) in exported.iter().zip([TOKENS, 20, 1]).chain([(&exported[0], TOKENS)]) {
            let fresh = load(file.path(), kv_type, flash_attention);
            let dtype = original.kv_dtype();
            let go_on = |backend: &LlamaCppBackend| {
                let mut copy = backend.new_sequence(TOKENS + 8).unwrap();
                copy.import_kv(&range(0..len), dtype, bytes).unwrap();
                let next = copy.forward(Input::Tokens(&[7, 8])).unwrap();
                let mut out = vec![0; bytes.len()];
                copy.export_kv(&range(0..len), &mut out).unwrap();
                (next, out)
            };
            lens.push(len);
            let expected = go_on(&fresh);
            assert!(go_on(&backend) == expected, "{kv_type:?}, {flash_attention}: {lens:?}");
            let mut empty = backend.new_sequence(8).unwrap();
            let first = empty.forward(Input::Tokens(&[1, 2, 3])).unwrap();
            let anew = fresh.new_sequence(8).unwrap().forward(Input::Tokens(&[1, 2, 3])).unwrap();
            assert!(first == anew, "{kv_type:?}, {flash_attention}: empty after {lens:?}");
            if len == TOKENS {
                assert!(expected.0 == hidden[1] && expected.1 == exported[0], "{kv_type:?}");
            }
        }
    }
}

#[test]
fn every_type_and_layout_of_a_cache_gives_the_same_keys_and_values() {
    for shape in [Shape::LLAMA_64, Shape::QWEN2_128] {
        let exact = captured(&shape, KvType::F32, true);
        for (kv_type, flash_attention, most) in [
            (KvType::F32, false, 2e-3),
            (KvType::F16, true, 2e-3),
            (KvType::F16, false, 2e-3),
            (KvType::Bf16, true, 1e-2),
            (KvType::Bf16, false, 1e-2),
            (KvType::Q8, true, 2e-2),
        ] {
            let other = captured(&shape, kv_type, flash_attention);
            for (layer, (a, b)) in other.iter().zip(&exact).enumerate() {
                let (k, v) = (a.len() / 2, b.len() / 2);
                let apart = [relative_rms(&a[..k], &b[..k]), relative_rms(&a[v..], &b[v..])];
                let what =
                    format!("{kv_type:?}, flash attention {flash_attention}, layer {layer}: {apart:?}");
                assert!(apart.into_iter().all(|apart| apart < most), "{what}");
            }
        }
    }
}

/// More than llama.cpp computes in one pass, and enough for every thread to copy some.
const MANY: usize = 1400;

#[test]
fn a_long_prompt_is_computed_as_its_parts_are_and_handed_over_whole() {
    let file = Shape::LLAMA_LONG.write();
    for (kv_type, flash_attention) in [(KvType::F16, true), (KvType::F32, false), (KvType::Q8, true)] {
        let what = format!("{kv_type:?}, flash attention {flash_attention}");
        let backend = load(file.path(), kv_type, flash_attention);
        let ids: Vec<u32> = (0..MANY as u32).map(|i| i * 53 % 256).collect();
        let mut whole = backend.new_sequence(MANY + 8).unwrap();
        let hidden = whole.forward_all(Input::Tokens(&ids)).unwrap();
        let mut parts = backend.new_sequence(MANY + 8).unwrap();
        let mut in_parts = Vec::new();
        let rows: Vec<f32> = ids.iter().flat_map(|id| embedding(&backend, *id)).collect();
        for (i, ids) in ids.chunks(100).enumerate() {
            let width = rows.len() / MANY;
            let rows = &rows[i * 100 * width..][..ids.len() * width];
            let input = if i % 2 == 0 { Input::Tokens(ids) } else { Input::Embeddings(rows) };
            in_parts.append(&mut parts.forward_all(input).unwrap());
        }
        let most = if kv_type == KvType::F32 { 1e-4 } else { 2e-2 };
        assert!(relative_rms(&in_parts, &hidden) < most, "{what}");
        let range = |tokens| KvRange { layers: 0..backend.info().identity.num_layers as usize, tokens };
        let mut bytes = vec![0; 3 * 2 * 2 * 64 * MANY * whole.kv_dtype().size()];
        whole.export_kv(&range(0..MANY), &mut bytes).unwrap();
        let next = whole.forward(Input::Tokens(&[1])).unwrap();
        // The first takes a new context, the second the one that the first left.
        for _ in 0..2 {
            let mut copy = backend.new_sequence(MANY + 8).unwrap();
            copy.import_kv(&range(0..MANY), whole.kv_dtype(), &bytes).unwrap();
            assert!(copy.forward(Input::Tokens(&[1])).unwrap() == next, "{what}");
            let mut again = vec![0; bytes.len()];
            copy.export_kv(&range(0..MANY), &mut again).unwrap();
            assert!(again == bytes, "{what}");
        }
    }
}

fn embedding(backend: &LlamaCppBackend, id: u32) -> Vec<f32> {
    backend.embed_mix(&[TokenMix::Sparse { ids: &[id], weights: &[1.0] }]).unwrap()
}
