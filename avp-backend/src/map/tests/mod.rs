//! Maps between models that are two matrices.

mod file;
mod folder;
mod properties;

use std::collections::HashMap;
use std::sync::Arc;

use super::{MapError, MapFault, MapProjection, ProjectionMap};
use crate::testing::{MatrixBackend, MatrixTables};
use crate::{
    Backend, BackendError, LinearMap, ModelInfo, NonFinite, ProjectionError, ProjectionOptions,
    RealignmentProducts, Sequence, SharedTokens, TextCodec, TokenMix, TokenPieces, Validation,
    vocabulary_mediated, vocabulary_overlap,
};

const SOURCE_DIM: usize = 4;
const TARGET_DIM: usize = 6;

/// Numbers from -1 to 1 that look like nothing.
fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn model(name: &str, dim: usize, rows: usize) -> MatrixBackend {
    let tables = MatrixTables { hidden_dim: dim, input: numbers(rows as u32, dim * rows), output: None };
    MatrixBackend::new(name, tables, 64)
}

fn source() -> MatrixBackend {
    model("source", SOURCE_DIM, 256)
}

fn target() -> MatrixBackend {
    model("target", TARGET_DIM, 260)
}

fn linear_map() -> LinearMap {
    LinearMap::new(numbers(3, SOURCE_DIM * TARGET_DIM), Some(numbers(4, TARGET_DIM)), 1.5)
}

/// A map of each method.
fn maps() -> [ProjectionMap; 3] {
    let tokenizer = "1".repeat(64);
    let (one, other) = (source().with_tokenizer_hash(&tokenizer), target().with_tokenizer_hash(&tokenizer));
    let mut validated = ProjectionMap::between(&source(), &target()).unwrap();
    validated.validation = Some(Validation { cosine: 0.25, perplexity: Some(3.5) });
    [
        ProjectionMap::between(&one, &other).unwrap(),
        validated,
        ProjectionMap::linear(source().info(), target().info(), linear_map()).unwrap(),
    ]
}

#[test]
fn models_of_one_tokenizer_are_mapped_over_all_tokens_that_both_have() {
    let (source, target) = (source().with_tokenizer_hash("t"), target().with_tokenizer_hash("t"));
    let map = ProjectionMap::between(&source, &target).unwrap();
    assert_eq!(map.projection, MapProjection::Vocabulary(SharedTokens::Same(256)));
    let (hidden, mut options) = (numbers(9, 2 * SOURCE_DIM), ProjectionOptions::default());
    let projected = map.apply(&source, &target, &hidden, &options).unwrap();
    options.target_norm = Some(target.mean_embedding_norm().unwrap());
    assert_eq!(projected, vocabulary_mediated(&source, &target, &hidden, &options).unwrap());
}

#[test]
fn models_of_two_tokenizers_are_mapped_over_the_tokens_that_mean_the_same() {
    for (source, target) in
        [(source(), target()), (source().with_tokenizer_hash("t"), target().with_tokenizer_hash("u"))]
    {
        let map = ProjectionMap::between(&source, &target).unwrap();
        let MapProjection::Vocabulary(shared @ SharedTokens::Pairs(pairs)) = &map.projection else {
            panic!("{:?}", map.projection)
        };
        assert_eq!(pairs.len(), 256);
        let hidden = numbers(9, SOURCE_DIM);
        let options = ProjectionOptions { target_norm: Some(0.5), ..Default::default() };
        assert_eq!(
            map.apply(&source, &target, &hidden, &options).unwrap(),
            vocabulary_overlap(&source, &target, shared, &hidden, &options).unwrap()
        );
    }
}

#[test]
fn tokens_without_a_row_are_no_shared_ones_and_too_few_of_them_make_no_map() {
    let pairs = |rows| match ProjectionMap::between(&source(), &model("small", TARGET_DIM, rows)) {
        Ok(map) => map.projection.shared_tokens(),
        Err(MapError::TooFewShared(count)) => {
            assert_eq!(count, rows);
            None
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!((pairs(200), pairs(100), pairs(99)), (Some(200), Some(100), None));
    // One tokenizer needs no number.
    let (source, target) = (source().with_tokenizer_hash("t"), model("small", TARGET_DIM, 20));
    let map = ProjectionMap::between(&source, &target.with_tokenizer_hash("t")).unwrap();
    assert_eq!(map.projection.shared_tokens(), Some(20));
}

#[test]
fn where_the_pieces_of_tokens_are_not_known_their_strings_count() {
    let named = |model, names: fn(u32) -> String| WithNames(model, Names(names));
    let source = named(source(), |id| format!("t{id}"));
    let map = ProjectionMap::between(&source, &named(target(), |id| format!("t{}", id + 1))).unwrap();
    let expected: Vec<(u32, u32)> = (1..256).map(|id| (id, id - 1)).collect();
    assert_eq!(map.projection, MapProjection::Vocabulary(SharedTokens::Pairs(expected)));
}

#[test]
fn a_linear_map_fits_its_models_and_does_what_the_matrix_does() {
    let (source, target) = (source(), target());
    let map = ProjectionMap::linear(source.info(), target.info(), linear_map()).unwrap();
    let (hidden, options) = (numbers(9, 3 * SOURCE_DIM), ProjectionOptions::default());
    let rows: Vec<f32> = hidden.chunks(SOURCE_DIM).flat_map(|row| linear_map().apply(row)).collect();
    assert_eq!(map.apply(&source, &target, &hidden, &options).unwrap(), rows);
    let scaled = ProjectionOptions { target_norm: Some(3.0), ..options.clone() };
    let doubled = map.apply(&source, &target, &hidden, &scaled).unwrap();
    assert!(doubled.iter().zip(&rows).all(|(a, b)| (a - 2.0 * b).abs() < 1e-5));
    let odd = map.apply(&source, &target, &hidden[1..], &options);
    assert!(matches!(odd, Err(ProjectionError::Backend(BackendError::Shape { expected: 12, got: 11, .. }))));
    let forged = ProjectionMap {
        projection: MapProjection::Linear(LinearMap::new(Vec::new(), None, 1.0)),
        ..map.clone()
    };
    let forged = forged.apply(&source, &target, &hidden, &options);
    assert!(matches!(forged, Err(ProjectionError::Map(MapError::Map(MapFault::Shape { .. })))));
    let huge = map.apply(&source, &target, &[f32::MAX; SOURCE_DIM], &options);
    assert!(matches!(huge, Err(ProjectionError::NonFinite(NonFinite))));

    let fault = |map| match ProjectionMap::linear(source.info(), target.info(), map) {
        Err(MapError::Map(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let matrix = || numbers(3, SOURCE_DIM * TARGET_DIM);
    let short = fault(LinearMap::new(numbers(3, SOURCE_DIM * SOURCE_DIM), None, 1.0));
    assert!(matches!(short, MapFault::Shape { tensor: "matrix", .. }));
    let bias = fault(LinearMap::new(matrix(), Some(numbers(3, SOURCE_DIM)), 1.0));
    assert!(matches!(bias, MapFault::Shape { tensor: "bias", .. }));
    let nan = [&matrix()[1..], &[f32::NAN]].concat();
    assert_eq!(fault(LinearMap::new(nan, None, 1.0)), MapFault::NonFinite("matrix"));
    let norm = fault(LinearMap::new(matrix(), None, f32::INFINITY));
    assert!(matches!(norm, MapFault::Field { field, .. } if field == "target_norm"));
    assert!(matches!(fault(LinearMap::new(matrix(), None, 0.0)), MapFault::Field { .. }));
}

#[test]
fn a_map_is_for_its_two_models_alone() {
    let map = ProjectionMap::between(&source(), &target()).unwrap();
    let differs = |source: &MatrixBackend, target: &MatrixBackend| {
        let applied = map.apply(source, target, &[0.0; SOURCE_DIM], &ProjectionOptions::default());
        match (map.check(source.info(), target.info()), applied) {
            (Ok(()), Ok(_)) => None,
            (
                Err(MapError::OtherModel { end, what, .. }),
                Err(ProjectionError::Map(MapError::OtherModel { .. })),
            ) => Some((end, what)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(differs(&source(), &target()), None);
    // The other way round, and models that differ in one thing only.
    assert_eq!(differs(&target(), &source()), Some(("source", "model_hash")));
    let hash = model("sourcf", SOURCE_DIM, 256);
    assert_eq!(differs(&hash, &target()), Some(("source", "model_hash")));
    let weights = source().with_weights(Some("other"));
    assert_eq!(differs(&weights, &target()), Some(("source", "weights fingerprint")));
    assert_eq!(differs(&source(), &target().with_weights(None)), None);
    assert_eq!(differs(&source(), &model("target", SOURCE_DIM, 260)), Some(("target", "hidden_dim")));
    assert_eq!(differs(&source(), &model("target", TARGET_DIM, 259)), Some(("target", "number of rows")));
    assert_eq!(differs(&source(), &model("target", TARGET_DIM, 261)), None);
    let tokenizers = ProjectionMap::between(&source().with_tokenizer_hash("t"), &target()).unwrap();
    let other = source().with_tokenizer_hash("u");
    assert!(matches!(
        tokenizers.check(other.info(), target().info()),
        Err(MapError::OtherModel { end: "source", what: "tokenizer_hash", .. })
    ));
    let unknown = model("", SOURCE_DIM, 256).with_weights(None);
    assert!(matches!(
        ProjectionMap::between(&unknown, &target()),
        Err(MapError::Map(MapFault::Unidentified("source")))
    ));
    assert_eq!(differs(&unknown, &target()), Some(("source", "model_hash")));
}

#[test]
fn a_model_without_a_hash_is_known_by_its_weights() {
    // As GGUF files are.
    let nameless = || model("", SOURCE_DIM, 256).with_weights(Some("abc"));
    let map = ProjectionMap::between(&nameless(), &target()).unwrap();
    map.check(source().with_weights(Some("abc")).info(), target().info()).unwrap();
    assert!(map.check(source().info(), target().info()).is_err());
    assert!(map.check(nameless().with_weights(None).info(), target().info()).is_err());
    assert_eq!(ProjectionMap::decode(&map.encode()).unwrap(), map);
}

/// A model whose tokenizer does not say what its tokens write.
struct WithNames(MatrixBackend, Names);

struct Names(fn(u32) -> String);

impl TextCodec for Names {
    fn encode(&self, _: &str, _: bool) -> Result<Vec<u32>, BackendError> {
        Ok(Vec::new())
    }

    fn decode(&self, _: &[u32], _: bool) -> Result<String, BackendError> {
        Ok(String::new())
    }

    fn vocab(&self) -> HashMap<String, u32> {
        (0..256).map(|id| ((self.0)(id), id)).collect()
    }

    fn pieces(&self) -> Result<Arc<TokenPieces>, BackendError> {
        Err(BackendError::Unsupported { what: "pieces".to_owned(), supported: "names".to_owned() })
    }
}

impl Backend for WithNames {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn codec(&self) -> &dyn TextCodec {
        &self.1
    }

    fn new_sequence(&self, capacity: usize) -> Result<Box<dyn Sequence>, BackendError> {
        self.0.new_sequence(capacity)
    }

    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, BackendError> {
        self.0.logits(hidden)
    }

    fn embed_mix(&self, mixes: &[TokenMix<'_>]) -> Result<Vec<f32>, BackendError> {
        self.0.embed_mix(mixes)
    }

    fn mean_embedding_norm(&self) -> Result<f32, BackendError> {
        self.0.mean_embedding_norm()
    }

    fn realignment_products(&self) -> Result<RealignmentProducts, BackendError> {
        self.0.realignment_products()
    }
}
