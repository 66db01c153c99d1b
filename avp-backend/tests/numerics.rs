//! The reference SDK's projection figures (spec-vectors/numerics.json), through `logits` and `embed_mix`.

use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_backend::{
    Backend, LatentProjection, LinearMap, ProjectionOptions, projection_metrics, scale_to_norm,
    vocabulary_mediated,
};
use serde_json::Value;

const SOURCE_DIM: usize = 8;
const TARGET_DIM: usize = 12;
const VOCAB: usize = 50;

#[test]
fn vocabulary_mediated_projection_agrees_with_the_reference() {
    let cases = [
        ("vocab_mediated_T0.5_normNone", 0.5, None, VOCAB),
        ("vocab_mediated_T0.5_norm2.5", 0.5, Some(2.5), VOCAB),
        ("vocab_mediated_T0.01_norm2.5", 0.01, Some(2.5), VOCAB),
        ("vocab_mediated_metrics", 1.0, Some(2.5), VOCAB),
        ("vocab_mediated_vocab_truncation", 1.0, None, 40),
    ];
    for (name, temperature, target_norm, rows) in cases {
        for left_out in [None, Some(0.0)] {
            let options = ProjectionOptions { temperature, target_norm, left_out };
            let target = matrices("target", f32s(2, rows * TARGET_DIM), TARGET_DIM);
            let rows = vocabulary_mediated(&source(), &target, &hidden(), &options).unwrap();
            assert_close(name, &rows, &flat(&case(name)["out"]));
        }
    }
}

#[test]
fn projection_metrics_agree_with_the_reference() {
    let case = case("vocab_mediated_metrics");
    let target = matrices("target", f32s(2, VOCAB * TARGET_DIM), TARGET_DIM);
    let options = ProjectionOptions { temperature: 1.0, target_norm: Some(2.5), left_out: None };
    for (i, hidden) in hidden().chunks_exact(SOURCE_DIM).enumerate() {
        let projected = vocabulary_mediated(&source(), &target, hidden, &options).unwrap();
        let metrics = projection_metrics(&source(), &target, hidden, &projected, &options).unwrap();
        let expected = ["entropy", "max_prob", "logit_gap", "hidden_state_norm", "nearest_cos_sim"]
            .map(|key| case["metrics"][key][i].as_f64().expect("a number") as f32);
        let got = [
            metrics.entropy,
            metrics.top_probability,
            metrics.top2_gap,
            metrics.hidden_norm,
            metrics.nearest_cosine,
        ];
        assert_close("metrics", &got, &expected);
    }
}

#[test]
fn soft_embeddings_of_tied_models_agree_with_the_reference() {
    let backend = source();
    let projection = LatentProjection::for_backend(&backend, None).unwrap();
    let rows = hidden();
    let rows = rows.chunks_exact(SOURCE_DIM).flat_map(|h| projection.apply(&backend, h).unwrap());
    let name = "project_to_embedding_space_T1.0";
    assert_close(name, &rows.collect::<Vec<_>>(), &flat(&case(name)["out"]));
}

#[test]
fn linear_maps_agree_with_the_reference() {
    let realign = LinearMap::new(f32s(4, SOURCE_DIM * SOURCE_DIM), None, 1.25);
    let bias = Some(f32s(6, TARGET_DIM));
    let map = LinearMap::new(f32s(5, SOURCE_DIM * TARGET_DIM), bias, 2.0);
    for (name, map) in [("apply_realignment", realign), ("apply_cross_model_projection_bias", map)] {
        let rows: Vec<f32> = hidden().chunks_exact(SOURCE_DIM).flat_map(|h| map.apply(h)).collect();
        assert_close(name, &rows, &flat(&case(name)["out"]));
    }
}

#[test]
fn scaling_to_a_norm_agrees_with_the_reference() {
    let mut rows = hidden();
    rows.chunks_exact_mut(SOURCE_DIM).for_each(|row| scale_to_norm(row, 0.75));
    assert_close("normalize_to_target", &rows, &flat(&case("normalize_to_target")["out"]));
    let mut zero = [0.0; 4];
    scale_to_norm(&mut zero, 0.75);
    assert_close("normalize_zero_vector", &zero, &flat(&case("normalize_zero_vector")["out"]));
}

#[test]
fn realignment_solves_the_ridge_regression() {
    let tables = MatrixTables {
        hidden_dim: SOURCE_DIM,
        input: f32s(7, VOCAB * SOURCE_DIM),
        output: Some(f32s(8, VOCAB * SOURCE_DIM)),
    };
    let backend = MatrixBackend::new("untied", tables.clone(), 64);
    let products = backend.realignment_products().unwrap();
    let norm = backend.mean_embedding_norm().unwrap();
    let map = LinearMap::solve(SOURCE_DIM, &products, norm).unwrap();
    // At the optimum the residual is orthogonal to every output column, up to the ridge term: check the
    // direction W gives unit vectors against the normal equations.
    let (gram, cross) = (&products.gram, &products.cross);
    let w: Vec<Vec<f32>> = (0..SOURCE_DIM)
        .map(|i| map.unscaled(&(0..SOURCE_DIM).map(|j| f32::from(u8::from(i == j))).collect::<Vec<_>>()))
        .collect();
    for i in 0..SOURCE_DIM {
        for j in 0..SOURCE_DIM {
            let left: f64 = (0..SOURCE_DIM).map(|k| gram[i * SOURCE_DIM + k] * f64::from(w[k][j])).sum();
            let ridge = 1e-5 * f64::from(w[i][j]);
            let right = cross[i * SOURCE_DIM + j];
            assert!((left + ridge - right).abs() < 1e-5, "({i}, {j}): {left} against {right}");
        }
    }
}

#[test]
fn a_cached_realignment_is_used_and_a_broken_one_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let tables = MatrixTables {
        hidden_dim: SOURCE_DIM,
        input: f32s(7, VOCAB * SOURCE_DIM),
        output: Some(f32s(8, VOCAB * SOURCE_DIM)),
    };
    let backend = MatrixBackend::new("untied", tables, 64);
    let apply = || {
        let projection = LatentProjection::for_backend(&backend, Some(dir.path())).unwrap();
        projection.apply(&backend, &hidden()[..SOURCE_DIM]).unwrap()
    };
    let first = apply();
    let file = std::fs::read_dir(dir.path().join("realign")).unwrap().next().unwrap().unwrap().path();
    assert_eq!(apply(), first);
    std::fs::write(&file, b"not safetensors").unwrap();
    assert_eq!(apply(), first);
    assert!(std::fs::metadata(&file).unwrap().len() > 100, "the broken file was replaced");
}

fn source() -> MatrixBackend {
    matrices("source", f32s(1, VOCAB * SOURCE_DIM), SOURCE_DIM)
}

fn matrices(name: &str, table: Vec<f32>, hidden_dim: usize) -> MatrixBackend {
    MatrixBackend::new(name, MatrixTables { hidden_dim, input: table, output: None }, 64)
}

fn hidden() -> Vec<f32> {
    f32s(3, 3 * SOURCE_DIM).into_iter().map(|x| x * 4.0).collect()
}

fn case(name: &str) -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec-vectors/numerics.json");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    cases.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no case {name}")).clone()
}

fn flat(rows: &Value) -> Vec<f32> {
    let rows = rows.as_array().unwrap();
    rows.iter().flat_map(|row| row.as_array().unwrap()).map(|x| x.as_f64().unwrap() as f32).collect()
}

fn assert_close(name: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{name}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((g - e).abs() <= 1e-5 * e.abs().max(1.0), "{name}[{i}]: {g} against {e}");
    }
}

/// The vectors' generator: splitmix64 as little-endian bytes, `x = (u32 >> 8) / 2^23 - 1`.
fn f32s(seed: u64, n: usize) -> Vec<f32> {
    let word = |i: u64| {
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(i + 1));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let halves = (0..).flat_map(|i| {
        let z = word(i);
        [z as u32, (z >> 32) as u32]
    });
    halves.take(n).map(|u| (u >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}
