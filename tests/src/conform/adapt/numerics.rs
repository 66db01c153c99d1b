//! numerics: projections, whose inputs are generated.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::Source;
use crate::case::Case;

/// As the file says: compared with this relative tolerance.
const RTOL: f64 = 1e-5;

pub(super) fn cases(source: &Source<'_>) -> Result<Vec<Case>> {
    let expect = json!({ "ok": { "out": source.field("out")? } });
    let (op, input) = match source.name()? {
        "vocab_mediated_T0.5_normNone" => ("vocabulary_mediated", projection(0.5, None, 50)),
        "vocab_mediated_T0.5_norm2.5" => ("vocabulary_mediated", projection(0.5, Some(2.5), 50)),
        "vocab_mediated_T0.01_norm2.5" => ("vocabulary_mediated", projection(0.01, Some(2.5), 50)),
        "vocab_mediated_metrics" => ("vocabulary_mediated", projection(1.0, Some(2.5), 50)),
        "vocab_mediated_vocab_truncation" => ("vocabulary_mediated", projection(1.0, None, 40)),
        "project_to_embedding_space_T1.0" => {
            ("soft_embedding", json!({ "table": table(1, 50, 8), "hidden": hidden() }))
        }
        "normalize_to_target" => {
            ("scale_to_norm", json!({ "dim": 8, "hidden": hidden(), "target_norm": 0.75 }))
        }
        "normalize_zero_vector" => {
            ("scale_to_norm", json!({ "dim": 4, "hidden": [0.0, 0.0, 0.0, 0.0], "target_norm": 0.75 }))
        }
        "apply_realignment" => ("linear_map", linear_map(4, 8, None, 1.25)),
        "apply_cross_model_projection_bias" => ("linear_map", linear_map(5, 12, Some(6), 2.0)),
        _ => bail!("inputs that are not known here"),
    };
    let mut cases = vec![with_tolerance(source.case("", op, input.clone(), expect)?)];
    if let Some(Value::Object(metrics)) = source.get("metrics") {
        let metrics = json!({ "ok": metrics });
        cases.push(with_tolerance(source.case("metrics", "projection_metrics", input, metrics)?));
    }
    Ok(cases)
}

fn with_tolerance(case: Case) -> Case {
    Case { rtol: Some(RTOL), ..case }
}

fn floats(seed: u64, len: usize) -> Value {
    json!({ "f32s": seed, "len": len })
}

fn hidden() -> Value {
    json!({ "f32s": 3, "len": 24, "scale": 4.0 })
}

fn table(seed: u64, rows: usize, dim: usize) -> Value {
    json!({ "dim": dim, "values": floats(seed, rows * dim) })
}

fn projection(temperature: f64, target_norm: Option<f64>, target_rows: usize) -> Value {
    json!({
        "source": table(1, 50, 8), "target": table(2, target_rows, 12), "hidden": hidden(),
        "temperature": temperature, "target_norm": target_norm,
    })
}

fn linear_map(matrix: u64, target_dim: usize, bias: Option<u64>, norm: f64) -> Value {
    json!({
        "source_dim": 8, "target_dim": target_dim, "matrix": floats(matrix, 8 * target_dim),
        "bias": bias.map(|seed| floats(seed, target_dim)), "target_norm": norm, "hidden": hidden(),
    })
}
