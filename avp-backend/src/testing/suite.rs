//! What every engine does: a suite over [`Backend`] and [`Sequence`] alone, instantiated by
//! [`backend_suite!`](crate::backend_suite).
//!
//! Each function panics where the engine breaks a promise of the traits. The model must have at least 3 layers, a window of at
//! least 64 positions, and ids 3 to 60 in its vocabulary. Bits are compared where nothing may change them: what a fork or an
//! import does is what its original does.

use avp_wire::KvDtype;

use crate::{Backend, BackendError, Input, KvPart, KvRange, LEFT_OUT_F32, Sequence, SoftmaxMix, TokenMix};

/// Makes a test of each promise, for the backend that `$load` loads: an expression that gives one. Ways to compute the same may be
/// as far apart as its type lets them be, or `within` a share of the largest value.
#[macro_export]
macro_rules! backend_suite {
    ($load:expr) => {
        $crate::backend_suite!($load, within = $crate::testing::suite::tolerance(&$load));
    };
    ($load:expr, within = $within:expr) => {
        $crate::backend_suite!(@each $load, ();
            eight_generations_on_forks_leave_the_sequence_unchanged_bit_for_bit,
            forks_go_on_independently_of_each_other_and_of_the_original,
            import_of_an_export_goes_on_with_the_same_bits,
            token_ranges_may_come_in_any_order_within_the_capacity,
            slabs_may_come_by_layer_and_by_token_range_in_any_order_of_layers,
            a_prompt_is_read_behind_a_cache_that_is_still_arriving,
            an_unfinished_import_is_dropped_by_the_next_pass,
            exports_of_ranges_are_slices_of_the_whole,
            imports_convert_between_types,
            one_imported_key_that_differs_changes_what_is_computed,
            what_is_not_finite_stays_in_its_sequence,
            growth_keeps_what_is_cached,
            one_position_has_room_in_a_sequence_for_one,
            nothing_goes_beyond_the_context_window,
            wrong_arguments_are_named_and_change_nothing,
            mixes_are_weighted_sums_of_embeddings,
            the_codec_gives_back_what_it_was_given,
        );
        $crate::backend_suite!(@each $load, ($within);
            forward_returns_the_last_of_what_forward_all_returns,
            embeddings_in_place_of_tokens_compute_the_same,
            token_by_token_agrees_with_one_pass,
            a_soft_embedding_is_that_of_logits_softmax_and_mix,
        );
    };
    (@each $load:expr, $within:tt; $($promise:ident),* $(,)?) => {
        $($crate::backend_suite!(@one $load, $within, $promise);)*
    };
    (@one $load:expr, ($($within:expr)?), $promise:ident) => {
        #[test]
        fn $promise() {
            let backend = $load;
            $crate::testing::suite::$promise(&backend $(, $within)?);
        }
    };
}

/// Ids of 40 positions.
fn ids() -> Vec<u32> {
    (0..40).map(|i| 3 + i * i * 7 % 57).collect()
}

fn range(layers: std::ops::Range<usize>, tokens: std::ops::Range<usize>) -> KvRange {
    KvRange { layers, tokens }
}

fn layers(backend: &dyn Backend) -> usize {
    backend.info().identity.num_layers as usize
}

fn row(backend: &dyn Backend) -> usize {
    let id = &backend.info().identity;
    id.num_kv_heads as usize * id.head_dim as usize
}

fn export(backend: &dyn Backend, sequence: &dyn Sequence, range: &KvRange) -> Vec<u8> {
    let each = 2 * row(backend) * sequence.kv_dtype().size();
    let mut out = vec![0xAA; range.layers.len() * range.tokens.len() * each];
    sequence.export_kv(range, &mut out).unwrap();
    out
}

fn all(backend: &dyn Backend, sequence: &dyn Sequence) -> KvRange {
    range(0..layers(backend), 0..sequence.len())
}

fn prefilled(backend: &dyn Backend, tokens: &[u32]) -> Box<dyn Sequence> {
    let mut sequence = backend.new_sequence(tokens.len()).unwrap();
    sequence.forward(Input::Tokens(tokens)).unwrap();
    sequence
}

fn next(sequence: &mut dyn Sequence, tokens: &[u32]) -> Vec<f32> {
    sequence.forward(Input::Tokens(tokens)).unwrap()
}

/// Largest difference, as a share of the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.map(|d| if d.is_finite() { d } else { f32::INFINITY }).fold(0.0, f32::max) / largest
}

/// How far two ways to compute the same may be apart, as a share of the largest value.
pub fn tolerance(backend: &dyn Backend) -> f32 {
    match backend.info().dtype {
        KvDtype::F32 => 1e-3,
        KvDtype::F16 => 2e-2,
        KvDtype::Bf16 => 1e-1,
    }
}

pub fn eight_generations_on_forks_leave_the_sequence_unchanged_bit_for_bit(backend: &dyn Backend) {
    let ids = ids();
    let mut context = prefilled(backend, &ids);
    let everything = all(backend, &*context);
    let before = export(backend, &*context, &everything);
    std::thread::scope(|scope| {
        for first in 0..8 {
            let mut fork = context.fork().unwrap();
            scope.spawn(move || {
                let mut fed = vec![3 + first];
                for _ in 0..12 {
                    let hidden = next(&mut *fork, &fed);
                    fed = vec![3 + hidden[0].to_bits() % 57];
                }
                assert_eq!(fork.len(), 52);
            });
        }
    });
    assert_eq!(context.len(), ids.len());
    assert!(export(backend, &*context, &everything) == before);
    // And it goes on as one that was never forked.
    let mut lonely = prefilled(backend, &ids);
    assert_eq!(next(&mut *context, &[7]), next(&mut *lonely, &[7]));
}

pub fn forks_go_on_independently_of_each_other_and_of_the_original(backend: &dyn Backend) {
    let mut original = prefilled(backend, &[5, 6, 7, 8]);
    let mut fork = original.fork().unwrap();
    next(&mut *original, &[9, 10]);
    let of_fork = next(&mut *fork, &[20, 21]);
    let mut fresh = prefilled(backend, &[5, 6, 7, 8]);
    assert_eq!(of_fork, next(&mut *fresh, &[20, 21]));
    let mut second = fork.fork().unwrap();
    drop(fork);
    assert_eq!(next(&mut *second, &[22]), next(&mut *fresh, &[22]));
}

pub fn import_of_an_export_goes_on_with_the_same_bits(backend: &dyn Backend) {
    let mut original = prefilled(backend, &ids());
    let everything = all(backend, &*original);
    let bytes = export(backend, &*original, &everything);
    let mut copy = backend.new_sequence(0).unwrap();
    copy.import_kv(&everything, original.kv_dtype(), &bytes).unwrap();
    assert_eq!(copy.len(), original.len());
    assert!(export(backend, &*copy, &everything) == bytes);
    for token in [11, 12] {
        assert_eq!(next(&mut *copy, &[token]), next(&mut *original, &[token]));
    }
    let everything = all(backend, &*original);
    assert!(export(backend, &*copy, &everything) == export(backend, &*original, &everything));
}

pub fn token_ranges_may_come_in_any_order_within_the_capacity(backend: &dyn Backend) {
    let (ids, layers) = (ids(), layers(backend));
    let mut original = prefilled(backend, &ids);
    let dtype = original.kv_dtype();
    let mut copy = backend.new_sequence(ids.len()).unwrap();
    let mut fork = None;
    for (part, complete) in [(30..40, 0), (11..20, 0), (0..11, 20), (20..30, 40)] {
        let r = range(0..layers, part);
        copy.import_kv(&r, dtype, &export(backend, &*original, &r)).unwrap();
        assert_eq!(copy.len(), complete, "after {r:?}");
        // A fork and a larger cache take over what lies beyond a gap.
        fork.get_or_insert_with(|| copy.fork().unwrap());
    }
    let mut fork = fork.unwrap();
    fork.reserve(ids.len() + 5).unwrap();
    let r = range(0..layers, 0..30);
    fork.import_kv(&r, dtype, &export(backend, &*original, &r)).unwrap();
    let expected = next(&mut *original, &[4]);
    assert_eq!(next(&mut *copy, &[4]), expected);
    assert_eq!(next(&mut *fork, &[4]), expected);
}

pub fn slabs_may_come_by_layer_and_by_token_range_in_any_order_of_layers(backend: &dyn Backend) {
    let (ids, layers) = (ids(), layers(backend));
    let mut original = prefilled(backend, &ids);
    let dtype = original.kv_dtype();
    let mut copy = backend.new_sequence(ids.len()).unwrap();
    for (layers, part, complete) in [
        (1..layers, 0..11, 0),
        (0..1, 0..11, 11),
        (2..layers, 11..40, 11),
        (0..1, 11..20, 11),
        (1..2, 11..40, 20),
        (0..1, 20..40, 40),
    ] {
        let r = range(layers, part);
        copy.import_kv(&r, dtype, &export(backend, &*original, &r)).unwrap();
        assert_eq!(copy.len(), complete, "after {r:?}");
    }
    assert_eq!(next(&mut *copy, &[4]), next(&mut *original, &[4]));
}

pub fn a_prompt_is_read_behind_a_cache_that_is_still_arriving(backend: &dyn Backend) {
    let (ids, layers) = (ids(), layers(backend));
    let original = prefilled(backend, &ids);
    let mut whole = original.fork().unwrap();
    let part = |layers, tokens| {
        let range = range(layers, tokens);
        let bytes = export(backend, &*original, &range).into();
        KvPart { range, dtype: original.kv_dtype(), bytes }
    };
    let parts = [part(1..2, 0..20), part(0..1, 0..40), part(1..2, 20..40), part(2..layers, 0..40)];
    let mut parts = parts.into_iter();
    let mut copy = backend.new_sequence(0).unwrap();
    let mut arrive = || Ok(parts.next().expect("nothing is asked for that is there"));
    let hidden = copy.forward_arriving(Input::Tokens(&[4, 5]), ids.len(), &mut arrive).unwrap();
    assert_eq!(hidden, next(&mut *whole, &[4, 5]));
    assert_eq!(copy.len(), whole.len());
    assert_eq!(next(&mut *copy, &[6]), next(&mut *whole, &[6]));

    let mut cut_off = backend.new_sequence(0).unwrap();
    let mut parts = 0;
    let error = cut_off.forward_arriving(Input::Tokens(&[4]), ids.len(), &mut || {
        parts += 1;
        if parts == 1 { Ok(part(0..1, 0..40)) } else { Err(BackendError::ContextInterrupted) }
    });
    assert!(matches!(error, Err(BackendError::ContextInterrupted)));
    assert_eq!(cut_off.len(), 0);
}

pub fn an_unfinished_import_is_dropped_by_the_next_pass(backend: &dyn Backend) {
    let mut sequence = prefilled(backend, &[5, 6, 7]);
    let other = prefilled(backend, &[50, 51, 52, 53, 54, 55]);
    let half = range(0..1, 3..6);
    sequence.import_kv(&half, other.kv_dtype(), &export(backend, &*other, &half)).unwrap();
    assert_eq!(sequence.len(), 3);
    let mut fresh = prefilled(backend, &[5, 6, 7]);
    assert_eq!(next(&mut *sequence, &[8]), next(&mut *fresh, &[8]));
    assert_eq!(sequence.len(), 4);
}

pub fn exports_of_ranges_are_slices_of_the_whole(backend: &dyn Backend) {
    let sequence = prefilled(backend, &ids());
    let whole = export(backend, &*sequence, &all(backend, &*sequence));
    let part = export(backend, &*sequence, &range(1..2, 5..9));
    let id = &backend.info().identity;
    let (heads, n) = (id.num_kv_heads as usize, sequence.len());
    let each = id.head_dim as usize * sequence.kv_dtype().size();
    let mut expected = Vec::new();
    for tensor in 2..4 {
        for head in 0..heads {
            let start = ((tensor * heads + head) * n + 5) * each;
            expected.extend_from_slice(&whole[start..start + 4 * each]);
        }
    }
    assert!(part == expected);
}

pub fn imports_convert_between_types(backend: &dyn Backend) {
    let mut original = prefilled(backend, &ids());
    let everything = all(backend, &*original);
    let bytes = export(backend, &*original, &everything);
    let values = floats(original.kv_dtype(), &bytes);
    let expected = next(&mut *original, &[4]);
    for (dtype, tolerance) in [(KvDtype::F32, 1e-3), (KvDtype::F16, 2e-2), (KvDtype::Bf16, 1e-1)] {
        let mut copy = backend.new_sequence(0).unwrap();
        copy.import_kv(&everything, dtype, &packed(dtype, &values)).unwrap();
        let back = floats(copy.kv_dtype(), &export(backend, &*copy, &everything));
        assert!(distance(&back, &values) < tolerance, "{dtype:?}");
        assert!(distance(&next(&mut *copy, &[4]), &expected) < 4.0 * tolerance, "{dtype:?}");
    }
}

/// Elements of an export.
pub fn floats(dtype: KvDtype, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.as_chunks::<2>().0.iter().copied();
    match dtype {
        KvDtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        KvDtype::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        KvDtype::Bf16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
    }
}

fn packed(dtype: KvDtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        KvDtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        KvDtype::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
        KvDtype::Bf16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
    }
}

/// An engine that reads the prompt again instead of using what was imported would pass all others.
pub fn one_imported_key_that_differs_changes_what_is_computed(backend: &dyn Backend) {
    let mut original = prefilled(backend, &ids());
    let everything = all(backend, &*original);
    let dtype = original.kv_dtype();
    let mut values = floats(dtype, &export(backend, &*original, &everything));
    // Far enough that attention to the first position, which may be none, changes.
    values[0] += 100.0;
    let mut copy = backend.new_sequence(0).unwrap();
    copy.import_kv(&everything, dtype, &packed(dtype, &values)).unwrap();
    let (a, b) = (next(&mut *copy, &[4]), next(&mut *original, &[4]));
    assert!(a != b, "the same");
}

/// Engines recycle memory, and 0 times infinity is not 0.
pub fn what_is_not_finite_stays_in_its_sequence(backend: &dyn Backend) {
    let mut original = prefilled(backend, &ids());
    let everything = all(backend, &*original);
    let (dtype, bytes) = (original.kv_dtype(), export(backend, &*original, &everything));
    let expected = next(&mut *original, &[4]);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let wrong = packed(KvDtype::F32, &vec![value; bytes.len() / dtype.size()]);
        let mut sequence = backend.new_sequence(0).unwrap();
        sequence.import_kv(&everything, KvDtype::F32, &wrong).unwrap();
        // An engine may refuse to go on.
        drop(sequence.forward(Input::Tokens(&[4])));
        drop(sequence);
        assert_eq!(next(&mut *prefilled(backend, &ids()), &[4]), expected);
    }
}

pub fn growth_keeps_what_is_cached(backend: &dyn Backend) {
    let ids = ids();
    let mut sequence = backend.new_sequence(3).unwrap();
    assert_eq!(sequence.capacity(), 3);
    next(&mut *sequence, &ids[..20]);
    sequence.reserve(30).unwrap();
    assert!(sequence.capacity() >= 50);
    let hidden = next(&mut *sequence, &ids[20..]);
    let mut whole = backend.new_sequence(64).unwrap();
    next(&mut *whole, &ids[..20]);
    assert!(distance(&hidden, &next(&mut *whole, &ids[20..])) < tolerance(backend));
}

pub fn one_position_has_room_in_a_sequence_for_one(backend: &dyn Backend) {
    let ids = ids();
    let mut sequence = backend.new_sequence(1).unwrap();
    let first = next(&mut *sequence, &ids[..1]);
    let mut fork = sequence.fork().unwrap();
    fork.reserve(1).unwrap();
    let mut whole = backend.new_sequence(64).unwrap();
    assert!(distance(&first, &next(&mut *whole, &ids[..1])) < tolerance(backend));
    assert!(distance(&next(&mut *fork, &ids[1..2]), &next(&mut *whole, &ids[1..2])) < tolerance(backend));
}

pub fn nothing_goes_beyond_the_context_window(backend: &dyn Backend) {
    let window = backend.info().max_positions;
    let refused = |error: BackendError| match error {
        BackendError::ContextWindow { needed, window: of } if of == window => needed,
        other => panic!("{other}"),
    };
    assert_eq!(refused(backend.new_sequence(window + 1).map(drop).unwrap_err()), window + 1);
    let mut sequence = prefilled(backend, &vec![4; window - 1]);
    assert_eq!(refused(sequence.forward(Input::Tokens(&[4, 4])).unwrap_err()), window + 1);
    assert_eq!(refused(sequence.reserve(2).unwrap_err()), window + 1);
    assert_eq!(refused(sequence.reserve(usize::MAX).unwrap_err()), usize::MAX);
    let r = range(0..2, window - 1..window + 4);
    let bytes = vec![0; 2 * 5 * 2 * row(backend) * 4];
    assert_eq!(refused(sequence.import_kv(&r, KvDtype::F32, &bytes).unwrap_err()), window + 4);
    next(&mut *sequence, &[4]);
    assert_eq!(sequence.len(), window);
}

pub fn wrong_arguments_are_named_and_change_nothing(backend: &dyn Backend) {
    let mut sequence = prefilled(backend, &[5, 6, 7]);
    let (n, dim) = (layers(backend), backend.info().identity.hidden_dim as usize);
    let unknown = u32::try_from(backend.info().vocab_size).unwrap();
    let each = 2 * row(backend) * 4;
    let out = 2 * row(backend) * sequence.kv_dtype().size();
    let errors = [
        (sequence.forward(Input::Tokens(&[])), "expected 1, got 0"),
        (sequence.forward(Input::Tokens(&[5, unknown])), "is not below the model's vocabulary size"),
        (sequence.forward(Input::Embeddings(&vec![0.0; dim + 1])), "input embeddings"),
        (
            sequence.import_kv(&range(0..n, 4..5), KvDtype::F32, &vec![0; n * each]).map(|()| vec![]),
            "tokens 4..5",
        ),
        (
            sequence
                .import_kv(&range(0..n + 1, 3..4), KvDtype::F32, &vec![0; (n + 1) * each])
                .map(|()| vec![]),
            "by tokens 3..4",
        ),
        (
            sequence.import_kv(&range(0..n, 3..4), KvDtype::F32, &vec![0; n * each - 1]).map(|()| vec![]),
            "bytes of a KV import",
        ),
        (sequence.import_kv(&range(0..n, 0..usize::MAX), KvDtype::F32, &[0; 8]).map(|()| vec![]), ""),
        (sequence.export_kv(&range(0..n, 2..4), &mut vec![0; 2 * n * out]).map(|()| vec![]), "tokens 2..4"),
        (
            sequence.export_kv(&range(0..n, 2..3), &mut vec![0; 2 * n * out]).map(|()| vec![]),
            "bytes of a KV export",
        ),
        (backend.logits(&vec![0.0; dim - 1]), "hidden states"),
    ];
    for (outcome, named) in errors {
        let error = outcome.expect_err(named).to_string();
        assert!(error.contains(named), "{error} / {named}");
    }
    let mut fresh = prefilled(backend, &[5, 6, 7]);
    assert_eq!(next(&mut *sequence, &[8]), next(&mut *fresh, &[8]));
}

pub fn forward_returns_the_last_of_what_forward_all_returns(backend: &dyn Backend, within: f32) {
    let last = next(&mut *backend.new_sequence(0).unwrap(), &ids());
    let every = backend.new_sequence(0).unwrap().forward_all(Input::Tokens(&ids())).unwrap();
    assert_eq!(every.len(), last.len() * ids().len());
    assert!(distance(&every[every.len() - last.len()..], &last) < within);
}

pub fn embeddings_in_place_of_tokens_compute_the_same(backend: &dyn Backend, within: f32) {
    let ids = ids();
    let mixes: Vec<_> =
        ids.iter().map(|id| TokenMix::Sparse { ids: std::slice::from_ref(id), weights: &[1.0] }).collect();
    let rows = backend.embed_mix(&mixes).unwrap();
    let of_rows = backend.new_sequence(0).unwrap().forward(Input::Embeddings(&rows)).unwrap();
    let of_ids = next(&mut *backend.new_sequence(0).unwrap(), &ids);
    assert!(distance(&of_rows, &of_ids) < within);
}

pub fn token_by_token_agrees_with_one_pass(backend: &dyn Backend, within: f32) {
    let ids = ids();
    let whole = next(&mut *backend.new_sequence(0).unwrap(), &ids);
    let mut sequence = backend.new_sequence(0).unwrap();
    let mut last = Vec::new();
    for id in &ids {
        last = next(&mut *sequence, &[*id]);
    }
    assert!(distance(&last, &whole) < within);
    let (a, b) = (backend.logits(&last).unwrap(), backend.logits(&whole).unwrap());
    assert_eq!(a.len(), backend.info().vocab_size);
    assert!(distance(&a, &b) < 2.0 * within);
}

pub fn mixes_are_weighted_sums_of_embeddings(backend: &dyn Backend) {
    let vocab = backend.info().vocab_size;
    let one = |id: u32| backend.embed_mix(&[TokenMix::Sparse { ids: &[id], weights: &[1.0] }]).unwrap();
    let (a, b) = (one(5), one(9));
    let both = backend.embed_mix(&[TokenMix::Sparse { ids: &[5, 9], weights: &[0.25, -2.0] }]).unwrap();
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| 0.25 * a - 2.0 * b).collect();
    assert!(distance(&both, &expected) < 1e-2);
    let weights: Vec<f32> = (0..vocab).map(|i| (i as f32 * 0.7).sin()).collect();
    let ids: Vec<u32> = (0..vocab as u32).collect();
    let sparse = backend.embed_mix(&[TokenMix::Sparse { ids: &ids, weights: &weights }]).unwrap();
    let dense = backend.embed_mix(&[TokenMix::Dense(&weights)]).unwrap();
    assert!(distance(&sparse, &dense) < 1e-2);
    assert!(backend.embed_mix(&[TokenMix::Sparse { ids: &[vocab as u32], weights: &[1.0] }]).is_err());
    assert!(backend.embed_mix(&[TokenMix::Sparse { ids: &[5], weights: &[1.0, 2.0] }]).is_err());
    assert!(backend.embed_mix(&[TokenMix::Dense(&vec![0.0; vocab + 1])]).is_err());
    assert!(backend.mean_embedding_norm().unwrap() > 0.0);
}

pub fn a_soft_embedding_is_that_of_logits_softmax_and_mix(backend: &dyn Backend, within: f32) {
    let hidden = next(&mut *backend.new_sequence(0).unwrap(), &ids());
    let Some(one_pass) = backend.soft_embedding(&hidden, LEFT_OUT_F32).unwrap() else { return };
    let mix = SoftmaxMix::from_logits(&backend.logits(&hidden).unwrap(), 1.0, 0.0).unwrap();
    let expected = backend.embed_mix(&[mix.as_token_mix()]).unwrap();
    assert!(distance(&one_pass, &expected) < within);
}

pub fn the_codec_gives_back_what_it_was_given(backend: &dyn Backend) {
    for text in ["Where does Finn live?", " two  spaces\nand a line", "Grüße, 你好, 🙂", ""] {
        let ids = backend.codec().encode(text, false).unwrap();
        assert_eq!(backend.codec().decode(&ids, false).unwrap(), text);
    }
    let vocab = backend.codec().vocab();
    assert!(!vocab.is_empty() && vocab.len() <= backend.info().vocab_size);
}
