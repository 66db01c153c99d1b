//! decode_lenient.json: odd messages that the reference peer accepts.

use avp_wire::{Frame, FrameHead, Limits};
use serde::Deserialize;

use crate::load::{Blob, Decoded, cases};

#[derive(Deserialize)]
struct Case {
    name: String,
    message: Blob,
    decoded: Decoded,
}

#[test]
fn the_lenient_profile_accepts_what_the_reference_peer_accepts() {
    for case in cases::<Case>("decode_lenient.json") {
        let message = case.message.bytes().unwrap();
        let head = FrameHead::decode(&message, &Limits::lenient()).unwrap();
        assert_eq!(head.header.flags.bits(), case.decoded.flags, "{}", case.name);
        assert_eq!(head.header.payload_length, case.decoded.payload_length, "{}", case.name);
        assert_eq!(head.header.metadata_length, case.decoded.metadata_length, "{}", case.name);
        let frame = Frame::decode(message, &Limits::lenient())
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        case.decoded.assert_frame(&frame, &case.name);
    }
}

#[test]
fn the_default_profile_rejects_exactly_the_contradictory_ones() {
    let expected = [
        ("has_map_flag_without_map_id", "frame.map_flag_mismatch"),
        ("kv_flag_without_kv_payload_type", "frame.kv_flag_mismatch"),
        ("kv_payload_type_without_flag", "frame.kv_flag_mismatch"),
        ("metadata_length_gt_payload_length", "frame.metadata_beyond_payload"),
        ("pb_compression_without_flag", "frame.compressed_flag_mismatch"),
        ("zstd_trailing_garbage_in_frame", "frame.compressed_flag_mismatch"),
    ];
    for limits in [Limits::default(), Limits::trusted()] {
        let mut rejected: Vec<(String, &str)> = Vec::new();
        for case in cases::<Case>("decode_lenient.json") {
            match Frame::decode(case.message.bytes().unwrap(), &limits) {
                Ok(frame) => case.decoded.assert_frame(&frame, &case.name),
                Err(error) => rejected.push((case.name, error.code().as_str())),
            }
        }
        rejected.sort();
        assert!(rejected.iter().map(|(name, code)| (name.as_str(), *code)).eq(expected), "{rejected:?}");
    }
}
