//! kv_cache: KV payloads and whole contexts.

use anyhow::{Context as _, Result};
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Source;
use super::frames::{blob, decoded};
use crate::case::Case;
use crate::generate::{bytes_of, f32s};

#[derive(Deserialize)]
struct Shape {
    num_layers: u32,
    num_kv_heads: u32,
    seq_len: u32,
    head_dim: u32,
}

pub(super) fn cases(source: &Source<'_>) -> Result<Vec<Case>> {
    match (source.get("shape"), source.get("message")) {
        (Some(shape), _) => Ok(vec![made(source, &Shape::deserialize(shape)?)?]),
        (None, Some(message)) => context(source, message),
        (None, None) => {
            let payload = bytes_of(source.field("bytes")?)?.context("no bytes")?;
            let expect = source.unless_errors(&json!({ "ok": {} }))?;
            Ok(vec![source.case("", "decode_kv", json!({ "payload": payload }), expect)?])
        }
    }
}

/// Planes of known values: written to these bytes, and read back out of them.
fn made(source: &Source<'_>, shape: &Shape) -> Result<Case> {
    let dtype = source.field("dtype_byte")?.as_u64().context("dtype_byte")?;
    let elements = u64::from(shape.num_kv_heads) * u64::from(shape.seq_len) * u64::from(shape.head_dim);
    let seeds = 1000..1000 + 2 * u64::from(shape.num_layers);
    let values = |seed| Ok(cast(&f32s(seed, usize::try_from(elements)?), dtype));
    let planes: Vec<Vec<u8>> = seeds.map(values).collect::<Result<_>>()?;
    let header = json!({
        "num_layers": shape.num_layers, "num_kv_heads": shape.num_kv_heads, "head_dim": shape.head_dim,
        "seq_len": shape.seq_len, "dtype": dtype,
    });
    let (mut request, mut read) = (header.clone(), header);
    request["planes"] = planes.iter().map(hex::encode).collect();
    read["planes"] = planes.iter().map(|plane| hex::encode(Sha256::digest(plane))).collect();
    let expect = json!({ "ok": { "payload": blob(source.field("bytes")?) } });
    let mut case = source.case("", "encode_kv", request, expect)?;
    case.then = Some(serde_json::from_value(json!({ "op": "decode_kv", "expect": { "ok": read } }))?);
    Ok(case)
}

fn cast(values: &[f32], dtype: u64) -> Vec<u8> {
    let values = values.iter();
    match dtype {
        0 => values.flat_map(|x| x.to_le_bytes()).collect(),
        1 => values.flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        _ => values.flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

/// A context that the SDK wrote: as a frame, and as a KV cache of its layers.
fn context(source: &Source<'_>, message: &Value) -> Result<Vec<Case>> {
    let bytes = bytes_of(message)?.context("no bytes")?;
    let decoded = decoded(source.field("decoded")?)?;
    let layers = decoded["metadata"]["num_layers"].clone();
    let input = json!({ "message": bytes });
    Ok(vec![
        source.case("frame", "decode_frame", input.clone(), json!({ "ok": decoded }))?,
        source.case("kv", "read_context", input, json!({ "ok": { "num_layers": layers } }))?,
    ])
}
