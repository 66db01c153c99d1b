//! The KV cache: forks, export and import, types.
#![allow(missing_docs)]

mod common;

use avp_backend::{Backend, BackendError, Input, KvPart, KvRange, Sequence};
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
fn eight_generations_on_forks_leave_the_sequence_unchanged_bit_for_bit() {
    for name in FIXTURES {
        let backend = load(name, KvDtype::F32);
        let tokens = Expected::read(name).tokens;
        let (mut context, _) = prefilled(&backend, &tokens);
        let everything = all(&backend, &*context);
        let before = export(&backend, &*context, &everything);
        std::thread::scope(|scope| {
            for i in 0..8 {
                let mut fork = context.fork().unwrap();
                let start: Vec<u32> = vec![3 + i];
                scope.spawn(move || {
                    let mut fed = start;
                    for _ in 0..12 {
                        let hidden = next(&mut *fork, &fed);
                        fed = vec![hidden[0].to_bits() % 90];
                    }
                    assert_eq!(fork.len(), 52);
                });
            }
        });
        assert_eq!(context.len(), tokens.len());
        assert_eq!(export(&backend, &*context, &everything), before, "{name}");
        // And it goes on as one that was never forked.
        let (mut lonely, _) = prefilled(&backend, &tokens);
        assert_eq!(next(&mut *context, &[7]), next(&mut *lonely, &[7]), "{name}");
    }
}

#[test]
fn forks_go_on_independently_of_each_other_and_of_the_original() {
    let backend = load("qwen2-tied", KvDtype::F32);
    let (mut original, _) = prefilled(&backend, &[5, 6, 7, 8]);
    let mut fork = original.fork().unwrap();
    next(&mut *original, &[9, 10]);
    let of_fork = next(&mut *fork, &[20, 21]);
    let (mut fresh, _) = prefilled(&backend, &[5, 6, 7, 8]);
    assert_eq!(of_fork, next(&mut *fresh, &[20, 21]));
    let mut second = fork.fork().unwrap();
    drop(fork);
    assert_eq!(next(&mut *second, &[22]), next(&mut *fresh, &[22]));
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
fn token_ranges_may_come_in_any_order_within_the_capacity() {
    let backend = load("qwen2-window", KvDtype::F32);
    let tokens = Expected::read("qwen2-window").tokens;
    let (mut original, _) = prefilled(&backend, &tokens);
    let mut copy = backend.new_sequence(tokens.len()).unwrap();
    let mut fork = None;
    for (part, complete) in [(30..40, 0), (11..20, 0), (0..11, 20), (20..30, 40)] {
        let r = range(0..3, part);
        copy.import_kv(&r, KvDtype::F32, &export(&backend, &*original, &r)).unwrap();
        assert_eq!(copy.len(), complete, "after {r:?}");
        // A fork and a larger cache take over what lies beyond a gap.
        fork.get_or_insert_with(|| copy.fork().unwrap());
    }
    let mut fork = fork.unwrap();
    fork.reserve(tokens.len() + 5).unwrap();
    let r = range(0..3, 0..30);
    fork.import_kv(&r, KvDtype::F32, &export(&backend, &*original, &r)).unwrap();
    let expected = next(&mut *original, &[4]);
    assert_eq!(next(&mut *copy, &[4]), expected);
    assert_eq!(next(&mut *fork, &[4]), expected);
}

#[test]
fn a_prompt_is_read_layer_by_layer_behind_a_cache_that_is_still_arriving() {
    let backend = load("qwen2-window", KvDtype::F32);
    let tokens = Expected::read("qwen2-window").tokens;
    let (original, _) = prefilled(&backend, &tokens);
    let mut whole = original.fork().unwrap();
    let part = |layers, tokens| {
        let range = range(layers, tokens);
        let bytes = export(&backend, &*original, &range).into();
        KvPart { range, dtype: KvDtype::F32, bytes }
    };
    let mut parts = [part(1..2, 0..20), part(0..1, 0..40), part(1..2, 20..40), part(2..3, 0..40)].into_iter();
    let mut copy = backend.new_sequence(0).unwrap();
    let mut arrive = || Ok(parts.next().expect("nothing is asked for that is there"));
    let hidden = copy.forward_arriving(Input::Tokens(&[4, 5]), tokens.len(), &mut arrive).unwrap();
    assert_eq!(hidden, next(&mut *whole, &[4, 5]));
    assert_eq!(copy.len(), whole.len());
    assert_eq!(next(&mut *copy, &[6]), next(&mut *whole, &[6]));

    let mut cut_off = backend.new_sequence(0).unwrap();
    let mut parts = 0;
    let error = cut_off.forward_arriving(Input::Tokens(&[4]), tokens.len(), &mut || {
        parts += 1;
        if parts == 1 { Ok(part(0..1, 0..40)) } else { Err(BackendError::ContextInterrupted) }
    });
    assert!(matches!(error, Err(BackendError::ContextInterrupted)));
    assert_eq!(cut_off.len(), 0);
}

#[test]
fn slabs_may_come_by_layer_and_by_token_range_in_any_order_of_layers() {
    let backend = load("qwen2-window", KvDtype::F32);
    let tokens = Expected::read("qwen2-window").tokens;
    let (mut original, _) = prefilled(&backend, &tokens);
    let slab = |r: &KvRange| export(&backend, &*original, r);
    let mut copy = backend.new_sequence(tokens.len()).unwrap();
    for (layers, part, complete) in [
        (1..3, 0..11, 0),
        (0..1, 0..11, 11),
        (2..3, 11..40, 11),
        (0..1, 11..20, 11),
        (1..2, 11..40, 20),
        (0..1, 20..40, 40),
    ] {
        let r = range(layers, part);
        copy.import_kv(&r, KvDtype::F32, &slab(&r)).unwrap();
        assert_eq!(copy.len(), complete, "after {r:?}");
    }
    assert_eq!(next(&mut *copy, &[4]), next(&mut *original, &[4]));
}

#[test]
fn layer_by_layer_in_token_slabs_is_complete_only_with_the_last_layer() {
    let backend = load("qwen3-tied", KvDtype::F32);
    let (mut original, _) = prefilled(&backend, &[5, 6, 7, 8, 9, 10]);
    let mut copy = backend.new_sequence(0).unwrap();
    for r in [range(0..1, 0..4), range(0..1, 4..6), range(1..2, 0..4), range(1..2, 4..6)] {
        let bytes = export(&backend, &*original, &r);
        copy.import_kv(&r, KvDtype::F32, &bytes).unwrap();
    }
    assert_eq!(copy.len(), 6);
    assert_eq!(next(&mut *copy, &[4]), next(&mut *original, &[4]));
}

#[test]
fn an_unfinished_import_is_dropped_by_the_next_pass() {
    let backend = load("qwen3-tied", KvDtype::F32);
    let (mut sequence, _) = prefilled(&backend, &[5, 6, 7]);
    let (other, _) = prefilled(&backend, &[50, 51, 52, 53, 54, 55]);
    let half = range(0..1, 3..6);
    sequence.import_kv(&half, KvDtype::F32, &export(&backend, &*other, &half)).unwrap();
    assert_eq!(sequence.len(), 3);
    let (mut fresh, _) = prefilled(&backend, &[5, 6, 7]);
    assert_eq!(next(&mut *sequence, &[8]), next(&mut *fresh, &[8]));
    assert_eq!(sequence.len(), 4);
}

#[test]
fn exports_of_ranges_are_slices_of_the_whole() {
    let backend = load("llama3-gqa-bias", KvDtype::F32);
    let (sequence, _) = prefilled(&backend, &Expected::read("llama3-gqa-bias").tokens);
    let whole = export(&backend, &*sequence, &all(&backend, &*sequence));
    let part = export(&backend, &*sequence, &range(1..2, 5..9));
    let (heads, head_dim, n) = (2, 8, sequence.len());
    let mut expected = Vec::new();
    for tensor in 2..4 {
        for head in 0..heads {
            let start = ((tensor * heads + head) * n + 5) * head_dim * 4;
            expected.extend_from_slice(&whole[start..start + 4 * head_dim * 4]);
        }
    }
    assert_eq!(part, expected);
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

#[test]
fn growth_keeps_what_is_cached() {
    let backend = load("gemma2", KvDtype::F32);
    let expected = Expected::read("gemma2");
    let mut sequence = backend.new_sequence(3).unwrap();
    assert_eq!(sequence.capacity(), 3);
    next(&mut *sequence, &expected.tokens[..20]);
    sequence.reserve(100).unwrap();
    assert!(sequence.capacity() >= 120);
    let hidden = next(&mut *sequence, &expected.tokens[20..]);
    assert!(distance(&backend.logits(&hidden).unwrap(), expected.last_logits()) < 1e-4);
}

#[test]
fn nothing_goes_beyond_the_context_window() {
    let backend = load("qwen2-tied", KvDtype::F32);
    let window = backend.info().max_positions;
    let refused = |e: BackendError| match e {
        BackendError::ContextWindow { needed, window: 256 } => needed,
        other => panic!("{other}"),
    };
    assert_eq!(refused(backend.new_sequence(window + 1).map(drop).unwrap_err()), 257);
    let (mut sequence, _) = prefilled(&backend, &vec![4; window - 1]);
    assert_eq!(refused(sequence.forward(Input::Tokens(&[4, 4])).unwrap_err()), 257);
    assert_eq!(refused(sequence.reserve(2).unwrap_err()), 257);
    assert_eq!(refused(sequence.reserve(usize::MAX).unwrap_err()), usize::MAX);
    let r = range(0..2, 200..300);
    let bytes = vec![0; 100 * 2 * 2 * 2 * 8 * 4];
    assert_eq!(refused(sequence.import_kv(&r, KvDtype::F32, &bytes).unwrap_err()), 300);
    next(&mut *sequence, &[4]);
    assert_eq!(sequence.len(), window);
}

#[test]
fn wrong_arguments_are_named_and_change_nothing() {
    let backend = load("qwen2-tied", KvDtype::F32);
    let (mut sequence, _) = prefilled(&backend, &[5, 6, 7]);
    let mut errors = vec![
        sequence.forward(Input::Tokens(&[])).unwrap_err(),
        sequence.forward(Input::Tokens(&[5, 96])).unwrap_err(),
        sequence.forward(Input::Embeddings(&[0.0; 33])).unwrap_err(),
        sequence.import_kv(&range(0..2, 4..5), KvDtype::F32, &[0; 256]).unwrap_err(),
        sequence.import_kv(&range(0..3, 3..4), KvDtype::F32, &[0; 384]).unwrap_err(),
        sequence.import_kv(&range(0..2, 3..4), KvDtype::F32, &[0; 255]).unwrap_err(),
        sequence.import_kv(&range(0..2, 0..usize::MAX), KvDtype::F32, &[0; 8]).unwrap_err(),
        sequence.export_kv(&range(0..2, 2..4), &mut [0; 512]).unwrap_err(),
        sequence.export_kv(&range(0..2, 2..3), &mut [0; 512]).unwrap_err(),
        backend.logits(&[0.0; 31]).unwrap_err(),
    ];
    #[expect(clippy::reversed_empty_ranges)]
    errors.push(sequence.export_kv(&range(0..2, 2..1), &mut []).unwrap_err());
    let named = [
        "number of input tokens: expected 1, got 0",
        "token id 96 is not below the model's vocabulary size 96",
        "input embeddings: expected 64, got 33",
        "tokens 4..5 are not within 2 layers by 3 tokens",
        "layers 0..3 by tokens 3..4",
        "bytes of a KV import: expected 256, got 255",
        "",
        "tokens 2..4 are not within 2 layers by 3 tokens",
        "bytes of a KV export: expected 256, got 512",
        "hidden states: expected 32, got 31",
        "tokens 2..1 are not within",
    ];
    for (error, named) in errors.iter().zip(named) {
        assert!(error.to_string().contains(named), "{error} / {named}");
    }
    let (mut fresh, _) = prefilled(&backend, &[5, 6, 7]);
    assert_eq!(next(&mut *sequence, &[8]), next(&mut *fresh, &[8]));
}
