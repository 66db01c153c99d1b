//! The reference SDK's projection figures (spec-vectors/numerics.json), through `logits` and `embed_mix`.

use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_backend::{
    Backend, GateOptions, LatentProjection, LinearMap, ProjectionMetrics, ProjectionOptions, SharedTokens,
    TransferFacts, Validation, distributions, effective_rank, projection_metrics, scale_to_norm,
    vocabulary_mediated, vocabulary_overlap,
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
            let options = ProjectionOptions { temperature, target_norm, left_out, ..Default::default() };
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
    let options = ProjectionOptions { target_norm: Some(2.5), nearest_cosine: true, ..Default::default() };
    for (i, hidden) in hidden().chunks_exact(SOURCE_DIM).enumerate() {
        let projected = vocabulary_mediated(&source(), &target, hidden, &options).unwrap();
        let shared = SharedTokens::Same(VOCAB);
        let metrics = projection_metrics(&source(), &target, &shared, hidden, &projected, &options).unwrap();
        let expected = ["entropy", "max_prob", "logit_gap", "hidden_state_norm", "nearest_cos_sim"]
            .map(|key| case["metrics"][key][i].as_f64().expect("a number") as f32);
        let got = figures(&metrics);
        assert_close("metrics", &got, &expected);
    }
}

/// Made with `vocab_overlap_projection` of the SDK 0.6.2, `return_metrics=True`: `W_src` and `W_tgt[tgt]` of the same tables,
/// `src = arange(1, 50, 3)`, `tgt = (7 * src + 5) % 50`.
struct Overlap {
    temperature: f32,
    target_norm: Option<f32>,
    out: [f32; 3 * TARGET_DIM],
    /// For each hidden state entropy, max_prob, logit_gap, hidden_state_norm, nearest_cos_sim.
    metrics: [[f32; 5]; 3],
}

const OVERLAPS: [Overlap; 2] = [
    Overlap {
        temperature: 1.0,
        target_norm: None,
        out: [
            0.70514435,
            -0.028775772,
            0.3811742,
            -0.45015645,
            0.104253195,
            0.43981522,
            -0.5019066,
            -0.4677655,
            0.3589308,
            0.21918124,
            0.3499855,
            -0.45019576,
            0.33523208,
            0.7316437,
            0.07888768,
            0.29509732,
            0.82939726,
            -0.19883186,
            0.5369477,
            -0.50666285,
            0.39827323,
            -0.67201275,
            -0.3009414,
            0.07314106,
            0.2780185,
            0.06992219,
            0.86120075,
            0.67101014,
            0.6579198,
            0.38733357,
            -0.31538612,
            -0.5655304,
            0.06703325,
            -0.10104732,
            0.5792045,
            -0.25557113,
        ],
        metrics: [
            [1.516073, 0.404186, 0.12153068, 6.297406, 0.8979127],
            [0.58524555, 0.82203376, 0.6740994, 7.598613, 0.99371386],
            [0.42544937, 0.8983364, 0.8445453, 5.9177513, 0.9962719],
        ],
    },
    Overlap {
        temperature: 0.5,
        target_norm: Some(2.5),
        out: [
            1.2597327,
            0.0019760656,
            0.58462673,
            -0.9303202,
            0.095076606,
            0.6305304,
            -0.93402016,
            -0.6358246,
            0.6257084,
            0.15641804,
            0.7209481,
            -0.91474944,
            0.41644278,
            1.1208478,
            0.10987809,
            0.42060703,
            1.228138,
            -0.38175756,
            0.9312258,
            -0.7341311,
            0.48029694,
            -1.0780171,
            -0.4149576,
            0.07813412,
            0.3147191,
            0.07421833,
            1.3088802,
            1.1625592,
            0.97220254,
            0.5579623,
            -0.466147,
            -0.8151882,
            0.06860069,
            -0.20525143,
            0.87546986,
            -0.35934123,
        ],
        metrics: [
            [1.0179526, 0.5965156, 0.30479062, 6.297406, 0.9370377],
            [0.14434467, 0.968099, 0.936746, 7.598613, 0.99979144],
            [0.03925646, 0.9942615, 0.9906966, 5.9177513, 0.99998856],
        ],
    },
];

fn overlap() -> SharedTokens {
    SharedTokens::Pairs((1..VOCAB as u32).step_by(3).map(|id| (id, (7 * id + 5) % VOCAB as u32)).collect())
}

// spec: projection 6.2, projection 1.2
#[test]
fn projection_over_shared_tokens_agrees_with_the_reference() {
    let target = matrices("target", f32s(2, VOCAB * TARGET_DIM), TARGET_DIM);
    for Overlap { temperature, target_norm, out, metrics } in OVERLAPS {
        for left_out in [None, Some(0.0)] {
            let options = ProjectionOptions { temperature, target_norm, left_out, nearest_cosine: true };
            let rows = vocabulary_overlap(&source(), &target, &overlap(), &hidden(), &options).unwrap();
            assert_close("overlap", &rows, &out);
            let rows = hidden();
            for ((hidden, projected), expected) in
                rows.chunks_exact(SOURCE_DIM).zip(out.chunks_exact(TARGET_DIM)).zip(&metrics)
            {
                let metrics =
                    projection_metrics(&source(), &target, &overlap(), hidden, projected, &options).unwrap();
                assert_close("overlap metrics", &figures(&metrics), expected);
            }
        }
    }
}

#[test]
fn several_tokens_that_stand_for_one_count_as_one() {
    let target = matrices("target", f32s(2, VOCAB * TARGET_DIM), TARGET_DIM);
    let hidden = &hidden()[..SOURCE_DIM];
    let options = ProjectionOptions { left_out: Some(0.0), nearest_cosine: true, ..Default::default() };
    let shared = SharedTokens::Pairs((0..VOCAB as u32).map(|id| (id, id / 2)).collect());
    let projected = vocabulary_overlap(&source(), &target, &shared, hidden, &options).unwrap();
    let shipped = distributions(&source(), &shared, hidden, usize::MAX, &options).unwrap();
    assert_eq!(shipped[0].ids(), (0..VOCAB as u32 / 2).collect::<Vec<_>>());
    let embedded = avp_backend::embed_distributions(&target, &shipped, None).unwrap();
    assert_close("shipped", &embedded, &projected);
    let metrics = projection_metrics(&source(), &target, &shared, hidden, &projected, &options).unwrap();
    let largest = shipped[0].probabilities().iter().copied().fold(0.0, f32::max);
    assert_close("largest", &[metrics.top_probability], &[largest]);
    assert_eq!((shared.target_of(7), shared.target_of(VOCAB as u32)), (Some(3), None));
}

// spec: projection 6.3
#[test]
fn the_mass_of_tokens_that_are_not_shared_is_left_out_of_what_is_shipped() {
    let options = ProjectionOptions::default();
    let all = SharedTokens::Same(VOCAB);
    let whole = distributions(&source(), &all, &hidden(), usize::MAX, &options).unwrap();
    let shipped = distributions(&source(), &overlap(), &hidden(), 5, &options).unwrap();
    for (whole, shipped) in whole.iter().zip(&shipped) {
        assert_eq!((whole.ids().len(), whole.left_out()), (VOCAB, 0.0));
        let mut shared: Vec<(f32, u32)> = (1..VOCAB as u32)
            .step_by(3)
            .map(|id| (whole.probabilities()[id as usize], (7 * id + 5) % VOCAB as u32))
            .collect();
        shared.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut ids, mut mass) = (Vec::new(), 0.0);
        for (probability, id) in &shared[..5] {
            ids.push(*id);
            mass += probability;
        }
        ids.sort_unstable();
        assert_eq!(shipped.ids(), ids);
        assert_close("left out", &[shipped.left_out()], &[1.0 - mass]);
    }
}

fn figures(metrics: &ProjectionMetrics) -> [f32; 5] {
    let ProjectionMetrics { entropy, top_probability, top2_gap, hidden_norm, nearest_cosine } = *metrics;
    [entropy, top_probability, top2_gap, hidden_norm, nearest_cosine.unwrap()]
}

// spec: projection 5.1
#[test]
fn prompts_pass_the_gate_as_long_as_in_the_reference() {
    let recommends = |tokens| {
        let facts = TransferFacts {
            prompt_tokens: Some(tokens),
            ending: Some(1.0),
            validation: Some(Validation { cosine: 1.0, perplexity: None }),
            ..Default::default()
        };
        GateOptions::default().assess(&facts).recommends_latent()
    };
    for (name, tokens) in [("assess_transfer_0", 0), ("assess_transfer_300", 300)] {
        assert_eq!(case(name)["recommend_latent"].as_bool(), Some(recommends(tokens)), "{name}");
    }
    assert!(!recommends(301));
}

#[test]
fn effective_ranks_agree_with_the_reference() {
    // Made with `_compute_effective_rank_ratio` of the SDK 0.6.2 on `f32s(9, n * dim)`, shape `[n, dim]`.
    let cases = [(3, 8, 0.948_297), (8, 8, 0.890_346_4), (20, 6, 0.979_818), (5, 1, 0.0), (1, 8, 0.0)];
    for (rows, dim, expected) in cases {
        assert_close("effective rank", &[effective_rank(&f32s(9, rows * dim), dim)], &[expected]);
    }
    // Of rank 2: `f32s(10, 24)[6, 4][:, :2] @ f32s(11, 32)[4, 8][:2]`.
    let (left, right) = (f32s(10, 24), f32s(11, 32));
    let at = |i: usize| left[i / 8 * 4] * right[i % 8] + left[i / 8 * 4 + 1] * right[8 + i % 8];
    let states: Vec<f32> = (0..48).map(at).collect();
    assert_close("effective rank", &[effective_rank(&states, 8)], &[0.346_447_74]);
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
