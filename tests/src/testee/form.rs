//! What requests and replies have in common: bytes as hex, profiles, metadata.

use anyhow::Context as _;
use avp_wire::{DType, Frame, Limits, Metadata, Mode, PayloadType};
use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::error::Failure;

/// The fields of a request.
pub(super) fn read<T: DeserializeOwned>(fields: Value) -> Result<T, Failure> {
    Ok(serde_json::from_value(fields).context("fields")?)
}

/// Bytes, which JSON carries as hex.
pub(super) struct Hex(pub(super) Bytes);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map(|bytes| Self(bytes.into())).map_err(D::Error::custom)
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Profile {
    Strict,
    #[default]
    Default,
    Lenient,
}

impl Profile {
    pub(super) fn limits(self) -> Limits {
        match self {
            Self::Strict => Limits::strict(),
            Self::Default => Limits::default(),
            Self::Lenient => Limits::lenient(),
        }
    }
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Metadata and payload of a frame, as replies show them.
pub(super) fn frame(frame: &Frame) -> Value {
    json!({
        "metadata": metadata(&frame.metadata),
        "payload": { "len": frame.payload.len(), "sha256": sha256(&frame.payload) },
    })
}

fn metadata(metadata: &Metadata) -> Value {
    json!({
        "session_id": metadata.session_id,
        "source_agent_id": metadata.source_agent_id,
        "target_agent_id": metadata.target_agent_id,
        "model_id": metadata.model_id,
        "hidden_dim": metadata.hidden_dim,
        "num_layers": metadata.num_layers,
        "payload_type": metadata.payload_type.number(),
        "dtype": metadata.dtype.number(),
        "tensor_shape": metadata.tensor_shape,
        "mode": metadata.mode.number(),
        "compression": metadata.compression,
        "avp_map_id": metadata.avp_map_id,
        "extra": metadata.extra,
        "payload_checksum": metadata.payload_checksum,
    })
}

/// Metadata as a request gives it; what is missing has its default.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct MetadataFields {
    session_id: String,
    source_agent_id: String,
    target_agent_id: String,
    model_id: String,
    hidden_dim: u32,
    num_layers: u32,
    payload_type: i32,
    dtype: i32,
    tensor_shape: Vec<u32>,
    mode: i32,
    avp_map_id: String,
    extra: std::collections::BTreeMap<String, String>,
}

impl MetadataFields {
    pub(super) fn into_metadata(self) -> Result<Metadata, Failure> {
        Ok(Metadata {
            session_id: self.session_id,
            source_agent_id: self.source_agent_id,
            target_agent_id: self.target_agent_id,
            model_id: self.model_id,
            hidden_dim: self.hidden_dim,
            num_layers: self.num_layers,
            payload_type: PayloadType::from_number(self.payload_type)?,
            dtype: DType::from_number(self.dtype)?,
            tensor_shape: self.tensor_shape,
            mode: Mode::from_number(self.mode)?,
            avp_map_id: self.avp_map_id,
            extra: self.extra,
            ..Metadata::default()
        })
    }
}
