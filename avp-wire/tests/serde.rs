//! The public data types as JSON: names of the protocol, and back to what they were.
#![cfg(feature = "serde")]

use std::fmt::Debug;

use avp_wire::ext::FrameKind;
use avp_wire::slab::{Manifest, SlabId};
use avp_wire::{
    ChecksumCheck, Compression, DType, EncodeOptions, ErrorCode, Fault, Frame, FrameHead, Header, KvDtype,
    KvHeader, Limits, Metadata, Mode, PayloadType, Profile, TransmitResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Serialises to `text` and reads back.
fn is<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T, expected: Value) {
    let text = serde_json::to_value(&value).unwrap();
    assert_eq!(text, expected);
    assert_eq!(serde_json::from_value::<T>(text).unwrap(), value);
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: T) {
    let text = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&text).unwrap(), value, "{text}");
}

#[test]
fn enumerations_have_the_names_of_the_protocol() {
    is(PayloadType::KvCache, json!("KV_CACHE"));
    is([DType::Float32, DType::BFloat16, DType::Int8], json!(["FLOAT32", "BFLOAT16", "INT8"]));
    is([Mode::Latent, Mode::Json], json!(["LATENT", "JSON_MODE"]));
    is([KvDtype::F32, KvDtype::Bf16], json!(["f32", "bf16"]));
    is([Profile::Strict, Profile::Standard, Profile::Lenient], json!(["strict", "default", "lenient"]));
    is((Compression::Fast, Fault::Incompatible), json!(["fast", "incompatible"]));
    is(ChecksumCheck::AsBytesArrive, json!("as_bytes_arrive"));
}

#[test]
fn codes_kinds_and_ids_are_their_text() {
    is(ErrorCode::BadMagic, json!("frame.bad_magic"));
    is(FrameKind::Manifest, json!("manifest"));
    is("L0+4,T128+64".parse::<SlabId>().unwrap(), json!("L0+4,T128+64"));
    assert!(serde_json::from_value::<SlabId>(json!("L0+0,T0+1")).is_err());
    assert!(serde_json::from_value::<ErrorCode>(json!("frame.unheard_of")).is_err());
}

#[test]
fn data_types_survive_and_missing_fields_are_defaults() {
    let metadata = Metadata {
        model_id: "m".into(),
        payload_type: PayloadType::KvCache,
        tensor_shape: vec![1, 2],
        extra: [("k".to_owned(), "v".to_owned())].into(),
        payload_checksum: Some(0),
        ..Metadata::default()
    };
    survives(Frame::new(metadata.clone(), vec![1, 2, 3]));
    survives(FrameHead { header: Header { payload_length: 3, ..Header::default() }, metadata });
    survives(TransmitResponse { message: Some("no".into()), ..TransmitResponse::default() });
    survives(EncodeOptions { compression: Some(Compression::Max), ..EncodeOptions::default() });
    let kv = KvHeader { num_layers: 1, num_kv_heads: 2, head_dim: 3, seq_len: 4, dtype: KvDtype::F16 };
    survives(Manifest { digest: Some([7; 32]), ..Manifest::new(kv, 1, 2) });
    survives(Limits::trusted());
    assert_eq!(serde_json::from_value::<Metadata>(json!({})).unwrap(), Metadata::default());
    assert_eq!(serde_json::from_value::<Limits>(json!({"max_rank": 8})).unwrap(), Limits::default());
}
