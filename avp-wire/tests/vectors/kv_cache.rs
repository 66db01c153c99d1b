//! kv_cache.json: KV payloads and whole contexts.

use avp_wire::{ErrorCode, Frame, KvDtype, KvHeader, KvPayload, Limits};
use bytes::Bytes;
use half::{bf16, f16};
use serde::Deserialize;

use crate::load::{Blob, Decoded, cases, f32s};

#[derive(Deserialize)]
struct Case {
    name: String,
    shape: Option<Shape>,
    dtype_byte: Option<u8>,
    bytes: Option<Blob>,
    estimate_kv_cache_size: Option<usize>,
    message: Option<Blob>,
    decoded: Option<Decoded>,
}

#[derive(Deserialize)]
struct Shape {
    num_layers: u32,
    num_kv_heads: u32,
    seq_len: u32,
    head_dim: u32,
}

fn cast(values: &[f32], dtype: KvDtype) -> Vec<u8> {
    let values = values.iter();
    match dtype {
        KvDtype::F32 => values.flat_map(|x| x.to_le_bytes()).collect(),
        KvDtype::F16 => values.flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        KvDtype::Bf16 => values.flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
    }
}

// spec: kv 1.2
#[test]
fn kv_payloads_are_written_and_read_as_by_the_reference_peer() {
    let mut seen = 0;
    for case in cases::<Case>("kv_cache.json") {
        let (Some(shape), Some(byte), Some(expected)) = (case.shape, case.dtype_byte, case.bytes) else {
            continue;
        };
        let Shape { num_layers, num_kv_heads, seq_len, head_dim } = shape;
        let dtype = KvDtype::from_byte(byte).unwrap();
        let header = KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype };
        let mut payload = vec![0; header.payload_len().unwrap()];
        header.write_to(&mut payload).unwrap();
        let plane = |seed: u32| cast(&f32s(seed.into(), header.plane_len().unwrap() / dtype.size()), dtype);
        for layer in 0..num_layers {
            payload[header.k_range(layer).unwrap()].copy_from_slice(&plane(1000 + 2 * layer));
            payload[header.v_range(layer).unwrap()].copy_from_slice(&plane(1001 + 2 * layer));
        }
        assert!(expected.is(&payload), "{}", case.name);
        assert_eq!(case.estimate_kv_cache_size, Some(payload.len() - KvHeader::SIZE), "{}", case.name);

        let kv = KvPayload::parse(Bytes::from(payload)).unwrap();
        assert_eq!(kv.header(), &header);
        let last = num_layers - 1;
        assert_eq!(kv.v(last).unwrap(), plane(1001 + 2 * last), "{}", case.name);
        assert_eq!(kv.k_bytes(last).unwrap(), plane(1000 + 2 * last), "{}", case.name);
        assert_eq!(kv.k(num_layers), None);
        seen += 1;
    }
    assert!(seen >= 5);
}

// spec: kv 1.3, kv 2.2
#[test]
fn kv_payloads_that_the_reference_peer_garbles_are_errors() {
    let expected = [
        ("kv_heterogeneous_layers_silent_corruption", ErrorCode::KvSizeMismatch),
        ("kv_unknown_dtype_byte_4", ErrorCode::KvUnknownDtype),
        ("kv_unsupported_float64_silently_tagged_float16", ErrorCode::KvSizeMismatch),
        ("kv_unsupported_int8_silently_tagged_float16", ErrorCode::KvSizeMismatch),
    ];
    let mut got = Vec::new();
    for case in cases::<Case>("kv_cache.json") {
        if let (None, Some(bytes)) = (&case.shape, case.bytes) {
            got.push((case.name, KvPayload::parse(bytes.bytes().unwrap()).unwrap_err().code()));
        }
    }
    got.sort();
    assert!(got.iter().map(|(name, code)| (name.as_str(), *code)).eq(expected), "{got:?}");
}

#[test]
fn whole_contexts_decode_under_every_profile_and_hold_a_kv_cache() {
    let mut seen = 0;
    for case in cases::<Case>("kv_cache.json") {
        let (Some(message), Some(decoded)) = (case.message, case.decoded) else { continue };
        for limits in [Limits::strict(), Limits::default(), Limits::lenient(), Limits::trusted()] {
            let frame = Frame::decode(message.bytes().unwrap(), &limits).unwrap();
            decoded.assert_frame(&frame, &case.name);
            assert_eq!(frame.kv().unwrap().header().num_layers, frame.metadata.num_layers);
        }
        seen += 1;
    }
    assert!(seen > 0);
}
