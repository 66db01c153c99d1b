//! Sound frames at random, and metadata as the Python side shows it.

use avp_wire::{DType, Frame, KvDtype, KvHeader, Metadata, Mode, PayloadType};
use serde_json::{Value, json};

use super::random::Random;

const DTYPES: [DType; 4] = [DType::Float32, DType::Float16, DType::BFloat16, DType::Int8];
pub(crate) const KV_DTYPES: [(KvDtype, &str); 3] =
    [(KvDtype::F32, "float32"), (KvDtype::F16, "float16"), (KvDtype::Bf16, "bfloat16")];

/// A frame as agents send it: tensors, KV caches, JSON, payloads without a shape.
pub(crate) fn frame(random: &mut Random) -> Frame {
    let mut metadata = Metadata {
        session_id: random.text(12),
        source_agent_id: random.text(12),
        target_agent_id: random.text(12),
        model_id: random.text(24),
        hidden_dim: random.number(),
        num_layers: random.number(),
        dtype: *random.pick(&DTYPES),
        avp_map_id: if random.coin() { random.text(20) } else { String::new() },
        extra: random.extra(),
        ..Metadata::default()
    };
    let payload = match random.below(4) {
        0 => {
            metadata.tensor_shape = (0..random.between(1, 4)).map(|_| random.between(1, 8)).collect();
            let elements: u32 = metadata.tensor_shape.iter().product();
            random.bytes(elements as usize * metadata.dtype.size())
        }
        1 => {
            metadata.payload_type = PayloadType::KvCache;
            let header = kv_header(random);
            let mut payload = random.bytes(header.payload_len().unwrap());
            header.write_to(&mut payload).unwrap();
            payload
        }
        2 => {
            metadata.mode = Mode::Json;
            random.text(200).into_bytes()
        }
        _ => {
            let len = random.below(2000) as usize;
            random.bytes(len)
        }
    };
    Frame::new(metadata, payload)
}

pub(crate) fn kv_header(random: &mut Random) -> KvHeader {
    KvHeader {
        num_layers: random.between(1, 4),
        num_kv_heads: random.between(1, 3),
        head_dim: random.between(1, 9),
        seq_len: random.between(1, 9),
        dtype: random.pick(&KV_DTYPES).0,
    }
}

/// Metadata as tests/python/peer.py takes and gives it.
pub(crate) fn fields(metadata: &Metadata) -> Value {
    json!({
        "session_id": metadata.session_id,
        "source_agent_id": metadata.source_agent_id,
        "target_agent_id": metadata.target_agent_id,
        "model_id": metadata.model_id,
        "hidden_dim": metadata.hidden_dim,
        "num_layers": metadata.num_layers,
        "avp_map_id": metadata.avp_map_id,
        "payload_type": metadata.payload_type.number(),
        "dtype": metadata.dtype.number(),
        "mode": metadata.mode.number(),
        "tensor_shape": metadata.tensor_shape,
        "extra": metadata.extra,
    })
}
