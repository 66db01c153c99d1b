//! negative.json: what the reference peer rejects, or should have. Cases of other crates (`hello/`, `hash/`,
//! `identity/`, `proj/`) are theirs.

use avp_wire::{ErrorCode, Frame, KvHeader, KvPayload, Limits};
use serde::Deserialize;

use crate::load::{Blob, cases};

#[derive(Deserialize)]
struct Case {
    name: String,
    message: Option<Blob>,
}

/// Cases that cannot be written in Rust, and why.
const NOT_EXPRESSIBLE: [(&str, &str); 15] = [
    ("encode/hidden_dim_negative", "hidden_dim is a u32"),
    ("encode/tensor_shape_2^32", "dimensions are u32"),
    ("encode/session_id_none", "session_id is a String"),
    ("encode/lone_surrogate", "a String is UTF-8"),
    ("encode/dtype_int_99", "dtype is an enum"),
    ("encode/payload_str", "a payload is Bytes"),
    ("encode/payload_memoryview", "a payload is Bytes"),
    ("encode/payload_bytearray", "a payload is Bytes"),
    ("decode/none", "input is Bytes"),
    ("decode/bytearray_ok", "input is Bytes"),
    ("decode/memoryview", "input is Bytes"),
    ("kv/serialize_none", "a KvHeader is a struct"),
    ("kv/serialize_3d", "a KvHeader has all four counts"),
    ("ctx/to_bytes_hidden_only", "contexts are avp-backend's"),
    ("ctx/payload_type_neither", "contexts are avp-backend's"),
];

/// Contexts are read by avp-backend; on the wire these frames are sound.
const CONTEXTS_OF_OTHERS: [&str; 2] = ["ctx/num_steps_not_int", "ctx/positional_args"];

const OTHER_CRATES: [&str; 4] = ["hello/", "hash/", "identity/", "proj/"];

/// The code under the default limits; none where the message is sound here too.
fn expected(name: &str) -> Option<ErrorCode> {
    Some(match name {
        "decode/empty" | "decode/truncated_to_header" => ErrorCode::Truncated,
        "decode/bad_magic" | "decode/bad_magic_zero" => ErrorCode::BadMagic,
        "decode/version_0" | "decode/version_255" => ErrorCode::UnsupportedVersion,
        "decode/payload_length_u32max" => ErrorCode::MemoryBudget,
        "decode/dtype_4_reserved" | "decode/dtype_negative" => ErrorCode::UnknownDtype,
        "decode/payload_type_2" => ErrorCode::UnknownPayloadType,
        "decode/mode_2" => ErrorCode::UnknownMode,
        "decode/checksum_zero_but_payload" => ErrorCode::ChecksumMismatch,
        "decode/protobuf_garbage" => ErrorCode::MalformedMetadata,
        "decode/protobuf_invalid_utf8" => ErrorCode::InvalidUtf8,
        "decode/metadata_wrong_wire_type_is_unknown" => return None,
        // Without metadata the COMPRESSED flag is contradicted before zstd is looked at.
        "decode/zstd_garbage" | "decode/zstd_no_content_size" | "decode/zstd_truncated_frame" => {
            ErrorCode::CompressedFlagMismatch
        }
        other => panic!("{other} is not in the table"),
    })
}

/// The code under the lenient limits, where it is another one.
fn expected_lenient(name: &str) -> Option<ErrorCode> {
    match name {
        "decode/zstd_garbage" | "decode/zstd_truncated_frame" => Some(ErrorCode::InvalidCompression),
        "decode/zstd_no_content_size" => Some(ErrorCode::NoContentSize),
        _ => expected(name),
    }
}

// spec: frame 2.1, frame 2.2, frame 3.5, frame 3.6, frame 3.9
#[test]
fn what_the_reference_peer_rejects_is_rejected_by_code() {
    for case in cases::<Case>("negative.json") {
        let name = case.name.as_str();
        if !name.starts_with("decode/") || NOT_EXPRESSIBLE.iter().any(|(known, _)| *known == name) {
            continue;
        }
        let message = case.message.unwrap().bytes().unwrap();
        for (limits, expected) in
            [(Limits::default(), expected(name)), (Limits::lenient(), expected_lenient(name))]
        {
            let got = Frame::decode(message.clone(), &limits).err().map(|error| error.code());
            assert_eq!(got, expected, "{name} {:?}", limits.profile);
        }
    }
}

// spec: kv 1.1, kv 2.2
#[test]
fn kv_payloads_that_lie_are_rejected_by_code() {
    for case in cases::<Case>("negative.json").into_iter().filter(|case| case.name.starts_with("kv/")) {
        let Some(bytes) = case.message.map(|message| message.bytes().unwrap()) else { continue };
        let expected = match case.name.as_str() {
            "kv/header_too_short" => ErrorCode::KvTruncated,
            "kv/truncated" => ErrorCode::KvSizeMismatch,
            other => panic!("{other} is not in the table"),
        };
        assert_eq!(KvPayload::parse(bytes).unwrap_err().code(), expected, "{}", case.name);
    }
}

// spec: kv 2.4
#[test]
fn a_hidden_state_is_never_read_as_a_kv_cache() {
    let mut seen = 0;
    for case in cases::<Case>("negative.json") {
        if case.name.starts_with("ctx/from_bytes_hidden_state") {
            let frame = Frame::decode(case.message.unwrap().bytes().unwrap(), &Limits::default()).unwrap();
            assert_eq!(frame.kv().unwrap_err().code(), ErrorCode::NotKvCache, "{}", case.name);
            seen += 1;
        }
    }
    assert!(seen >= 2);
}

#[test]
fn every_case_is_tested_or_listed_with_a_reason() {
    for case in cases::<Case>("negative.json") {
        let name = case.name.as_str();
        let listed =
            NOT_EXPRESSIBLE.iter().any(|(known, _)| *known == name) || CONTEXTS_OF_OTHERS.contains(&name);
        let of_others = OTHER_CRATES.iter().any(|prefix| name.starts_with(prefix));
        let tested =
            ["decode/", "kv/", "ctx/from_bytes_hidden_state"].iter().any(|prefix| name.starts_with(prefix));
        assert!(listed || of_others || tested, "{name} is neither tested nor listed");
    }
    // The longest count of layers in the SDK's list ran for seconds there.
    let header = KvHeader {
        num_layers: 150_000,
        num_kv_heads: 0,
        head_dim: 1,
        seq_len: 1,
        dtype: avp_wire::KvDtype::F16,
    };
    let error = KvPayload::parse(header.encode().to_vec().into()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::KvZeroDimension);
}
