//! Fingerprints of checkpoints. They are made of safetensors files, so the tensors of a request are written to one.

use anyhow::Context as _;
use avp_handshake::fingerprint::Fingerprint;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Answer;
use super::error::Failure;
use super::form::{Hex, read};

/// Name, dtype as safetensors writes it, shape, bytes.
#[derive(Deserialize)]
struct Tensor(String, String, Vec<u64>, Hex);

#[derive(Deserialize)]
struct Tensors {
    tensors: Vec<Tensor>,
}

pub(super) fn of_tensors(fields: Value) -> Answer {
    let Tensors { tensors } = read(fields)?;
    let folder = tempfile::tempdir().context("a folder for the checkpoint")?;
    let file = folder.path().join("model.safetensors");
    std::fs::write(&file, safetensors(&tensors)).context("the checkpoint")?;
    let fingerprint = Fingerprint::of_safetensors(&[file]).map_err(Failure::invalid)?;
    Ok(json!({ "fingerprint": fingerprint.to_string() }))
}

/// The file format: length of the header, header as JSON, data.
fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for Tensor(name, dtype, shape, Hex(bytes)) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}
