//! Whatever the type and layout of llama.cpp's cache, the keys and values that come out of it are the same.

use avp_backend::{Backend, Input, KvRange};
use avp_backend_llamacpp::KvType;
use avp_wire::KvDtype;

use crate::load;
use crate::random::Shape;

const TOKENS: usize = 70;

/// Canonical keys and values, layer by layer.
fn captured(shape: &Shape, kv_type: KvType, flash_attention: bool) -> Vec<Vec<f32>> {
    let backend = load(shape.write().path(), kv_type, flash_attention);
    let ids: Vec<u32> = (0..TOKENS as u32).map(|i| i * 53 % 256).collect();
    let mut sequence = backend.new_sequence(TOKENS).unwrap();
    sequence.forward(Input::Tokens(&ids)).unwrap();
    let identity = &backend.info().identity;
    let elements = 2 * (identity.num_kv_heads * identity.head_dim) as usize * TOKENS;
    let layer = |layer| {
        let mut out = vec![0; elements * sequence.kv_dtype().size()];
        sequence.export_kv(&KvRange { layers: layer..layer + 1, tokens: 0..TOKENS }, &mut out).unwrap();
        floats(sequence.kv_dtype(), &out)
    };
    (0..identity.num_layers as usize).map(layer).collect()
}

fn floats(dtype: KvDtype, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.as_chunks::<2>().0.iter().copied();
    match dtype {
        KvDtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        KvDtype::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        KvDtype::Bf16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
    }
}

/// Root of the mean square of the differences, as a share of that of `b`.
fn relative_rms(a: &[f32], b: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    (square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / square(&mut b.iter().copied())).sqrt()
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
