//! messages.json: what the reference peer's encoder writes.

use avp_wire::{Compression, EncodeOptions, ErrorCode, Frame, FrameHead, Limits};
use serde::Deserialize;

use crate::load::{Blob, Decoded, JsonMetadata, cases};

#[derive(Deserialize)]
struct Case {
    name: String,
    input: Input,
    message: Blob,
    decoded: Decoded,
    byte_exact_expected: bool,
}

#[derive(Deserialize)]
struct Input {
    metadata: JsonMetadata,
    compression: String,
    payload: Blob,
}

impl Case {
    fn frame(&self) -> Frame {
        let payload = self.input.payload.bytes().expect("inputs give or generate their bytes");
        Frame::new(self.input.metadata.to_metadata(), payload)
    }

    fn options(&self) -> EncodeOptions {
        let compression = match self.input.compression.as_str() {
            "NONE" => None,
            "FAST" => Some(Compression::Fast),
            "BALANCED" => Some(Compression::Balanced),
            "MAX" => Some(Compression::Max),
            other => panic!("unknown compression {other}"),
        };
        EncodeOptions { compression, ..EncodeOptions::default() }
    }

    /// Says a KV cache of a certain shape and holds something else.
    fn contradicts_itself(&self) -> bool {
        let compressed = self.input.compression != "NONE";
        compressed
            && (self.decoded.flags & 4 != 0 || !self.decoded.metadata.to_metadata().tensor_shape.is_empty())
    }
}

// spec: frame 2.8, frame 7.1, frame 7.2, frame 7.3, frame 7.7, frame 7.9
#[test]
fn encoding_gives_the_bytes_of_the_reference_peer() {
    let mut exact = 0;
    for case in cases::<Case>("messages.json") {
        let encoded = case.frame().encode(&case.options()).unwrap();
        if case.byte_exact_expected {
            assert!(case.message.is(&encoded.to_vec()), "{}: {}", case.name, hex::encode(&encoded.head));
            exact += 1;
        }
        let head = FrameHead::decode(&encoded.head, &Limits::strict()).unwrap();
        assert_eq!(head.header.flags.bits(), case.decoded.flags, "{}", case.name);
        assert_eq!(head.header.metadata_length, case.decoded.metadata_length, "{}", case.name);
        let frame = Frame::decode(encoded.to_vec().into(), &Limits::lenient()).unwrap();
        case.decoded.assert_frame(&frame, &case.name);
    }
    assert!(exact >= 27, "{exact} cases compared byte by byte");
}

#[test]
fn decoding_reads_what_the_reference_peer_wrote() {
    for case in cases::<Case>("messages.json") {
        let own = || {
            case.byte_exact_expected.then(|| case.frame().encode(&case.options()).unwrap().to_vec().into())
        };
        let Some(message) = case.message.bytes().or_else(own) else { continue };
        let head = FrameHead::decode(&message, &Limits::default()).unwrap();
        assert_eq!(head.header.payload_length, case.decoded.payload_length, "{}", case.name);
        assert_eq!(head.header.metadata_length, case.decoded.metadata_length, "{}", case.name);
        let frame = Frame::decode(message.clone(), &Limits::lenient()).unwrap();
        case.decoded.assert_frame(&frame, &case.name);
        match Frame::decode(message, &Limits::default()) {
            Ok(frame) => case.decoded.assert_frame(&frame, &case.name),
            Err(error) => {
                assert!(case.contradicts_itself(), "{}: {error}", case.name);
                assert_eq!(error.code(), ErrorCode::PayloadSizeMismatch, "{}", case.name);
            }
        }
    }
}
