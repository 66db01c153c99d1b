//! What passes, limits, mixes and the codec keep to.

use avp_wire::KvDtype;

use super::{distance, ids, layers, next, prefilled, range, row, tolerance};
use crate::{Backend, BackendError, Input, LEFT_OUT_F32, LatentProjection, SoftmaxMix, TokenMix};

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

/// Of engines that take them at once; others say so, and have done nothing.
pub fn latent_steps_at_once_are_those_of_projection_and_forward_in_turn(backend: &dyn Backend, within: f32) {
    let projection = LatentProjection::for_backend(backend, None).unwrap();
    let mut sequence = backend.new_sequence(0).unwrap();
    let mut hidden = next(&mut *sequence, &ids());
    let before = sequence.len();
    let mut fork = sequence.fork().unwrap();
    let Some(states) = fork.latent_steps(&hidden, 3, &projection).unwrap() else {
        assert_eq!(fork.len(), before);
        return;
    };
    assert_eq!((states.len(), fork.len()), (3 * hidden.len(), before + 3));
    for state in states.chunks_exact(hidden.len()) {
        let embedding = projection.apply(backend, &hidden).unwrap();
        hidden = sequence.forward(Input::Embeddings(&embedding)).unwrap();
        assert!(distance(state, &hidden) < within);
    }
    assert!(fork.latent_steps(&hidden[1..], 1, &projection).is_err());
    assert_eq!(fork.len(), before + 3);
}

pub fn the_codec_gives_back_what_it_was_given(backend: &dyn Backend) {
    for text in ["Where does Finn live?", " two  spaces\nand a line", "Grüße, 你好, 🙂", ""] {
        let ids = backend.codec().encode(text, false).unwrap();
        assert_eq!(backend.codec().decode(&ids, false).unwrap(), text);
    }
    let vocab = backend.codec().vocab();
    assert!(!vocab.is_empty() && vocab.len() <= backend.info().vocab_size);
}
