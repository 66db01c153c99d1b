//! Distributions over a vocabulary, as payloads.

use avp_wire::{Distribution, DistributionError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Answer;
use super::error::Failure;
use super::form::{Hex, read};

#[derive(Deserialize)]
struct Payload {
    payload: Hex,
    /// The one element of `tensor_shape`.
    positions: u32,
}

#[derive(Deserialize, Serialize)]
struct Position {
    ids: Vec<u32>,
    probabilities: Vec<f32>,
    left_out: f32,
}

pub(super) fn decode(fields: Value) -> Answer {
    let Payload { payload: Hex(payload), positions } = read(fields)?;
    let shown = |position: &Distribution| Position {
        ids: position.ids().to_vec(),
        probabilities: position.probabilities().to_vec(),
        left_out: position.left_out(),
    };
    let positions: Vec<Position> = Distribution::decode_all(&payload, positions)?.iter().map(shown).collect();
    Ok(json!({ "positions": positions }))
}

#[derive(Deserialize)]
struct Positions {
    positions: Vec<Position>,
}

pub(super) fn encode(fields: Value) -> Answer {
    let Positions { positions } = read(fields)?;
    if positions.is_empty() {
        return Err(DistributionError::Empty.into());
    }
    let made =
        |position: Position| Distribution::new(position.ids, position.probabilities, position.left_out);
    let positions: Vec<Distribution> = positions.into_iter().map(made).collect::<Result<_, _>>()?;
    Ok(json!({ "payload": hex::encode(Distribution::encode_all(&positions)) }))
}

impl From<DistributionError> for Failure {
    fn from(error: DistributionError) -> Self {
        Self::refused(error.code(), error)
    }
}
