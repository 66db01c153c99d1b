//! What forks, exports and imports of a KV cache keep to.

use avp_wire::KvDtype;

use super::{all, distance, export, ids, layers, next, prefilled, range};
use crate::{Backend, BackendError, Input, KvPart};

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

/// Within one process, as far as drivers let a process take its own memory; between two it is `tests/gpu/run.py` that tries.
pub fn a_cache_goes_on_in_memory_of_its_device_and_of_no_other(backend: &dyn Backend) {
    #[cfg(unix)]
    {
        let original = prefilled(backend, &ids());
        let (everything, dtype) = (all(backend, &*original), original.kv_dtype());
        assert!(original.share_kv("another").unwrap().is_none());
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        assert!(backend.new_sequence(40).unwrap().take_shared_kv(40, dtype, null()).is_err());
        let Some(device) = backend.shared_device() else { return };
        for room in [0, 40, 50] {
            let memory = original.share_kv(device).unwrap().unwrap();
            let mut copy = backend.new_sequence(room).unwrap();
            copy.take_shared_kv(40, dtype, memory).unwrap();
            assert_eq!(copy.len(), 40);
            assert!(export(backend, &*copy, &everything) == export(backend, &*original, &everything));
            assert_eq!(next(&mut *copy, &[11]), next(&mut *original.fork().unwrap(), &[11]));
        }
    }
    #[cfg(not(unix))]
    let _ = backend;
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
