//! The KV cache in every type, on the fixtures; what every engine does is tested by `suite.rs`.
#![allow(missing_docs)]

mod common;

use avp_backend::{Backend, Input, KvRange, Sequence};
use avp_wire::KvDtype;
use common::{Expected, FIXTURES, distance, load, prefilled};

const DTYPES: [KvDtype; 3] = [KvDtype::F32, KvDtype::F16, KvDtype::Bf16];

fn range(layers: std::ops::Range<usize>, tokens: std::ops::Range<usize>) -> KvRange {
    KvRange { layers, tokens }
}

fn bytes_of(backend: &dyn Backend, sequence: &dyn Sequence, range: &KvRange) -> usize {
    let id = &backend.info().identity;
    let per_token = 2 * id.num_kv_heads as usize * id.head_dim as usize * sequence.kv_dtype().size();
    range.layers.len() * range.tokens.len() * per_token
}

fn export(backend: &dyn Backend, sequence: &dyn Sequence, range: &KvRange) -> Vec<u8> {
    let mut out = vec![0xAA; bytes_of(backend, sequence, range)];
    sequence.export_kv(range, &mut out).unwrap();
    out
}

fn all(backend: &dyn Backend, sequence: &dyn Sequence) -> KvRange {
    range(0..backend.info().identity.num_layers as usize, 0..sequence.len())
}

fn next(sequence: &mut dyn Sequence, tokens: &[u32]) -> Vec<f32> {
    sequence.forward(Input::Tokens(tokens)).unwrap()
}

#[test]
fn import_of_an_export_goes_on_with_the_same_bits_in_every_type() {
    for name in FIXTURES {
        for dtype in DTYPES {
            let backend = load(name, dtype);
            let tokens = Expected::read(name).tokens;
            let (mut original, _) = prefilled(&backend, &tokens);
            let everything = all(&backend, &*original);
            let bytes = export(&backend, &*original, &everything);
            let mut copy = backend.new_sequence(0).unwrap();
            copy.import_kv(&everything, dtype, &bytes).unwrap();
            assert_eq!(copy.len(), tokens.len());
            assert_eq!(export(&backend, &*copy, &everything), bytes, "{name} {dtype:?}");
            for token in [11, 12] {
                assert_eq!(next(&mut *copy, &[token]), next(&mut *original, &[token]), "{name} {dtype:?}");
            }
        }
    }
}

#[test]
fn imports_convert_between_types() {
    let (full, half) = (load("qwen2-tied", KvDtype::F32), load("qwen2-tied", KvDtype::Bf16));
    let tokens = Expected::read("qwen2-tied").tokens;
    let (of_full, _) = prefilled(&full, &tokens);
    let everything = all(&full, &*of_full);
    let f32_bytes = export(&full, &*of_full, &everything);
    let mut of_half = half.new_sequence(0).unwrap();
    of_half.import_kv(&everything, KvDtype::F32, &f32_bytes).unwrap();
    let rounded = export(&half, &*of_half, &everything);
    for (exact, bf16) in f32_bytes.as_chunks().0.iter().zip(rounded.as_chunks().0) {
        let exact = f32::from_le_bytes(*exact);
        assert_eq!(half::bf16::from_le_bytes(*bf16), half::bf16::from_f32(exact));
    }
    let mut back = full.new_sequence(0).unwrap();
    back.import_kv(&everything, KvDtype::Bf16, &rounded).unwrap();
    assert!(distance(&next(&mut *back, &[3]), &next(&mut *of_full.fork().unwrap(), &[3])) < 0.1);
}

#[test]
fn half_types_compute_close_to_f32() {
    for name in FIXTURES {
        let expected = Expected::read(name);
        for (dtype, tolerance) in [(KvDtype::F16, 0.05), (KvDtype::Bf16, 0.4)] {
            let backend = load(name, dtype);
            let (_, hidden) = prefilled(&backend, &expected.tokens);
            let d = distance(&backend.logits(&hidden).unwrap(), expected.last_logits());
            assert!(d < tolerance, "{name} {dtype:?}: {d}");
        }
    }
}
