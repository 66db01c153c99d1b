//! Values that a case describes instead of spelling them out, made before a testee sees them.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Replaces every description in the fields of a request.
pub(crate) fn expand_fields(fields: Map<String, Value>) -> Result<Map<String, Value>> {
    fields.into_iter().map(|(key, value)| Ok((key, expand(value)?))).collect()
}

fn expand(value: Value) -> Result<Value> {
    match value {
        Value::Array(items) => items.into_iter().map(expand).collect(),
        Value::Object(fields) => match serde_json::from_value(Value::Object(fields.clone())) {
            Ok(described) => made(described),
            Err(_) => Ok(Value::Object(expand_fields(fields)?)),
        },
        other => Ok(other),
    }
}

/// The forms of spec-vectors/README.md.
#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Described {
    Random {
        splitmix64_seed: u64,
        len: usize,
        #[serde(default, rename = "sha256")]
        _sha256: Option<String>,
    },
    Hex {
        hex: String,
        #[serde(rename = "len")]
        _len: usize,
        #[serde(rename = "sha256")]
        _sha256: String,
    },
    Repeated {
        repeat: String,
        times: usize,
    },
    Joined {
        concat: Vec<Value>,
    },
    Floats {
        f32s: u64,
        len: usize,
        #[serde(default = "one")]
        scale: f32,
    },
}

fn one() -> f32 {
    1.0
}

fn made(described: Described) -> Result<Value> {
    Ok(match described {
        Described::Random { splitmix64_seed, len, .. } => {
            hex::encode(splitmix64(splitmix64_seed).take(len).collect::<Vec<_>>()).into()
        }
        Described::Hex { hex, .. } => hex.into(),
        Described::Repeated { repeat, times } => repeat.repeat(times).into(),
        Described::Joined { concat } => {
            let mut joined = String::new();
            for part in concat {
                match expand(part)? {
                    Value::String(hex) => joined.push_str(&hex),
                    other => bail!("{other} in a list of bytes"),
                }
            }
            joined.into()
        }
        Described::Floats { f32s: seed, len, scale } => {
            f32s(seed, len).into_iter().map(|x| Value::from(x * scale)).collect()
        }
    })
}

/// splitmix64 as a stream of little-endian bytes.
pub(crate) fn splitmix64(seed: u64) -> impl Iterator<Item = u8> {
    (1_u64..).flat_map(move |i| {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(i));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    })
}

/// 24 bits of each word of the stream, in [-1, 1).
pub(crate) fn f32s(seed: u64, len: usize) -> Vec<f32> {
    let bytes: Vec<u8> = splitmix64(seed).take(len * 4).collect();
    let words = bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word));
    words.map(|word| (word >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Bytes that a case of the SDK-made files gives or describes; `None` where it only names their hash.
pub(crate) fn bytes_of(blob: &Value) -> Result<Option<String>> {
    if let Some(hex) = blob.get("hex") {
        return Ok(Some(hex.as_str().context("hex is text")?.to_owned()));
    }
    match (blob.get("splitmix64_seed").and_then(Value::as_u64), blob.get("len").and_then(Value::as_u64)) {
        (Some(seed), Some(len)) => {
            let len = usize::try_from(len)?;
            Ok(Some(hex::encode(splitmix64(seed).take(len).collect::<Vec<_>>())))
        }
        _ => Ok(None),
    }
}
