//! Our types in the form of the vectors, and back.

use std::collections::BTreeMap;

use avp_wire::{DType, Frame, KvDtype, KvHeader, KvPayload, Metadata, Mode, PayloadType};
use serde_json::{Value, json};

use crate::load::sha256;
use crate::suite::{number, text};

pub(super) fn frame_json(frame: &Frame) -> Value {
    let metadata = &frame.metadata;
    json!({
        "metadata": {
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
        },
        "payload": {"len": frame.payload.len(), "sha256": sha256(&frame.payload)},
    })
}

pub(super) fn metadata(value: &Value) -> Metadata {
    let string = |field: &str| text(&value[field]).to_owned();
    let enumeration = |field: &str| i32::try_from(number(&value[field])).expect("31 bits");
    Metadata {
        session_id: string("session_id"),
        source_agent_id: string("source_agent_id"),
        target_agent_id: string("target_agent_id"),
        model_id: string("model_id"),
        hidden_dim: u32_of(&value["hidden_dim"]),
        num_layers: u32_of(&value["num_layers"]),
        payload_type: PayloadType::from_number(enumeration("payload_type")).expect("a payload type"),
        dtype: DType::from_number(enumeration("dtype")).expect("a dtype"),
        tensor_shape: value["tensor_shape"].as_array().expect("a shape").iter().map(u32_of).collect(),
        mode: Mode::from_number(enumeration("mode")).expect("a mode"),
        avp_map_id: string("avp_map_id"),
        extra: text_map(&value["extra"]),
        ..Metadata::default()
    }
}

pub(super) fn kv_header(value: &Value) -> KvHeader {
    let dtype = u8::try_from(number(&value["dtype"])).expect("a byte");
    KvHeader {
        num_layers: u32_of(&value["num_layers"]),
        num_kv_heads: u32_of(&value["num_kv_heads"]),
        head_dim: u32_of(&value["head_dim"]),
        seq_len: u32_of(&value["seq_len"]),
        dtype: KvDtype::from_byte(dtype).expect("a dtype"),
    }
}

pub(super) fn kv_json(payload: &KvPayload) -> Value {
    let KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype } = *payload.header();
    let planes = (0..num_layers).flat_map(|layer| [payload.k(layer), payload.v(layer)]);
    let planes: Vec<_> =
        planes.map(|plane| sha256(plane.expect("a checked payload has its planes"))).collect();
    json!({
        "num_layers": num_layers,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "seq_len": seq_len,
        "dtype": dtype.byte(),
        "planes": planes,
    })
}

fn u32_of(value: &Value) -> u32 {
    u32::try_from(number(value)).expect("32 bits")
}

pub(super) fn text_map(value: &Value) -> BTreeMap<String, String> {
    value
        .as_object()
        .expect("a map")
        .iter()
        .map(|(key, value)| (key.clone(), text(value).to_owned()))
        .collect()
}
