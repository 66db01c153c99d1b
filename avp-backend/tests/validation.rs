//! Validation of projections, between backends that are made of given tables.

use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_backend::{
    Backend, BackendError, GateOptions, Input, MOST_VALIDATION_TEXTS, MOST_VALIDATION_TOKENS,
    ProjectionError, SharedTokens, VALIDATION_TEXTS, ValidationText, validate, validate_pair, validation_of,
    validation_texts, vocabulary_overlap,
};
use avp_wire::Distribution;

const DIM: usize = 6;
const VOCAB: usize = 256;

fn backend(name: &str, seed: f32) -> MatrixBackend {
    let input = (0..VOCAB * DIM).map(|i| (i as f32 * seed).sin()).collect();
    MatrixBackend::new(name, MatrixTables { hidden_dim: DIM, input, output: None }, 512)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn row(backend: &MatrixBackend, id: u32) -> Vec<f32> {
    let mut weights = vec![0.0; VOCAB];
    weights[id as usize] = 1.0;
    backend.embed_mix(&[avp_backend::TokenMix::Dense(&weights)]).unwrap()
}

fn sure(ids: &[u32]) -> ValidationText {
    let expected = ids.iter().cycle().skip(1).take(ids.len());
    ValidationText {
        tokens: ids.iter().copied().map(Some).collect(),
        expected: expected.map(|id| Distribution::new(vec![*id], vec![1.0], 0.0).unwrap()).collect(),
    }
}

fn nothing() -> Distribution {
    Distribution::new(vec![7], vec![0.0], 1.0).unwrap()
}

// spec: projection 8.2
#[test]
fn the_cosine_is_that_of_projections_with_the_tokens_that_follow_and_are_shared() {
    let (source, target) = (backend("source", 1.3), backend("target", 2.7));
    // All but `e`, each as the byte after it.
    let shared =
        SharedTokens::Pairs((0..255).filter(|id| *id != u32::from(b'e')).map(|id| (id, id + 1)).collect());
    let texts = ["Where is Finn?".to_owned(), String::new(), "Here.".to_owned()];
    let found = validation_of(&source, &shared, &texts, VOCAB).unwrap();
    assert_eq!(found.len(), 2, "an empty text says nothing");
    let mut mean = 0.0;
    for (text, found) in [&texts[0], &texts[2]].into_iter().zip(&found) {
        let ids: Vec<u32> = text.bytes().map(u32::from).collect();
        let here: Vec<Option<u32>> = ids.iter().map(|id| shared.target_of(*id)).collect();
        assert_eq!(found.tokens, here);
        let hidden = source.new_sequence(0).unwrap().forward_all(Input::Tokens(&ids)).unwrap();
        let projected = vocabulary_overlap(&source, &target, &shared, &hidden, &Default::default()).unwrap();
        let cosines: Vec<f32> = projected
            .chunks_exact(DIM)
            .zip(&here[1..])
            .filter_map(|(row_of, next)| Some(cosine(row_of, &row(&target, (*next)?))))
            .collect();
        mean += cosines.iter().sum::<f32>() / cosines.len() as f32 / 2.0;
    }
    let validation = validate(&target, &found).unwrap();
    assert!((validation.cosine - mean).abs() < 1e-5, "{validation:?} and {mean}");
    assert_eq!(validation.perplexity, None);
}

// spec: projection 8.3
#[test]
fn the_perplexity_is_that_of_a_text_after_the_projection_of_its_end() {
    let target = backend("target", 2.7);
    let ids: Vec<u32> = (0..40).map(|i| 3 + i * i * 7 % 57).collect();
    let mut rows = row(&target, ids[0]);
    rows.extend(ids[..39].iter().flat_map(|id| row(&target, *id)));
    let hidden = target.new_sequence(0).unwrap().forward_all(Input::Embeddings(&rows)).unwrap();
    let logits = target.logits(&hidden).unwrap();
    let loss = logits.chunks_exact(VOCAB).zip(&ids).map(|(row, id)| {
        row.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln() - f64::from(row[*id as usize])
    });
    let expected = (loss.sum::<f64>() / 40.0).exp() as f32;
    let validation = validate(&target, &[sure(&ids)]).unwrap();
    assert!((validation.cosine - 1.0).abs() < 1e-6);
    let perplexity = validation.perplexity.unwrap();
    assert!((perplexity / expected - 1.0).abs() < 1e-4, "{perplexity} and {expected}");

    let mut partly = sure(&ids);
    partly.tokens[3] = None;
    let validation = validate(&target, &[sure(&ids), partly]).unwrap();
    assert!(validation.cosine > 0.99 && validation.perplexity.is_none(), "a token is not the target's");
    let wrong = ValidationText { expected: vec![sure(&[255]).expected[0].clone(); 40], ..sure(&ids) };
    let validation = validate(&target, &[wrong]).unwrap();
    assert!(validation.cosine < 0.5 && validation.perplexity.is_none(), "{validation:?}");
}

#[test]
fn a_source_that_expects_nothing_shared_is_worth_nothing() {
    let target = backend("target", 2.7);
    let text = ValidationText { expected: vec![nothing(); 3], ..sure(&[1, 2, 3]) };
    assert_eq!(validate(&target, &[text]).unwrap().cosine, 0.0);
    let alone = ValidationText { tokens: vec![Some(1), None, None], ..sure(&[1, 2, 3]) };
    for texts in [vec![], vec![alone], vec![sure(&[1])]] {
        let validation = validate(&target, &texts).unwrap();
        assert_eq!((validation.cosine, validation.perplexity), (0.0, None));
        assert!(!validation.passes(&GateOptions::default()));
    }
    // Half of what is expected is known, and right; what is expected at the end is not.
    let mut half = sure(&[1, 2, 3]);
    half.expected[2] = nothing();
    let validation = validate(&target, &[half]).unwrap();
    assert_eq!(validation.perplexity, Some(f32::MAX));
    assert!(!validation.passes(&GateOptions::default()));
}

// spec: projection 8.4
#[test]
fn what_does_not_fit_the_target_is_named() {
    let target = backend("target", 2.7);
    let validated = |texts: &[ValidationText]| match validate(&target, texts).unwrap_err() {
        ProjectionError::Backend(error) => error,
        other => panic!("{other}"),
    };
    let mut short = sure(&[1, 2, 3]);
    short.expected.pop();
    for (texts, expected, got) in [
        (vec![short], 3, 2),
        (vec![sure(&[])], 0, 0),
        (vec![sure(&[1, 2]); MOST_VALIDATION_TEXTS + 1], MOST_VALIDATION_TEXTS, MOST_VALIDATION_TEXTS + 1),
        (vec![sure(&[1; MOST_VALIDATION_TOKENS + 1])], MOST_VALIDATION_TOKENS, MOST_VALIDATION_TOKENS + 1),
    ] {
        let error = validated(&texts);
        assert!(
            matches!(error, BackendError::Shape { expected: e, got: g, .. } if (e, g) == (expected, got)),
            "{error}"
        );
    }
    let unknown = VOCAB as u32;
    let mut expecting = sure(&[1, 2]);
    expecting.expected[0] = Distribution::new(vec![1, unknown], vec![0.5, 0.5], 0.0).unwrap();
    for text in [sure(&[unknown, 1]), expecting] {
        let error = validated(&[text]);
        assert!(matches!(error, BackendError::TokenId { id, vocab_size: VOCAB } if id == unknown), "{error}");
    }
}

// spec: projection 8.1
#[test]
fn a_model_is_validated_with_its_own_texts_up_to_their_128th_token() {
    let folder = tempfile::tempdir().unwrap();
    let mut info = backend("source", 1.3).info().clone();
    for source in [folder.path().to_owned(), folder.path().join("model.gguf")] {
        info.source = source;
        assert_eq!(validation_texts(&info), VALIDATION_TEXTS);
    }
    std::fs::write(folder.path().join("validation.txt"), "user\\nWhere?\n\nHere.\n").unwrap();
    std::fs::write(folder.path().join("model.gguf"), "").unwrap();
    for source in [folder.path().to_owned(), folder.path().join("model.gguf")] {
        info.source = source;
        assert_eq!(validation_texts(&info), ["user\nWhere?", "Here."]);
    }
    let (source, shared) = (backend("source", 1.3), SharedTokens::Same(VOCAB));
    let texts = vec!["a".repeat(400); 20];
    let found = validation_of(&source, &shared, &texts, 3).unwrap();
    assert_eq!((found.len(), found[0].tokens.len()), (MOST_VALIDATION_TEXTS, MOST_VALIDATION_TOKENS));
    assert!(found[0].expected.iter().all(|expected| expected.ids().len() == 3));
    assert!(validate(&backend("target", 2.7), &found).is_ok());
    assert!(validate_pair(&source, &source, &shared).unwrap().cosine > 0.0);
}
