//! Metadata by its bytes: what a decoder takes, and how an encoder writes.

use std::collections::BTreeMap;

use avp_wire::{
    Compression, DType, EncodeOptions, ErrorCode, Frame, FrameHead, KvHeader, Limits, Metadata, PayloadType,
    TransmitResponse, ext,
};

fn decode(bytes: &[u8]) -> Result<Metadata, ErrorCode> {
    Metadata::decode(bytes, &Limits::default()).map_err(|error| error.code())
}

/// An entry of `extra` that holds `inner`.
fn entry(inner: &[u8]) -> Vec<u8> {
    let len = u16::try_from(inner.len()).unwrap();
    // A length may take more bytes than it needs.
    let varint = [(len & 0x7f) as u8 | 0x80, (len >> 7) as u8];
    [&[0x72][..], &varint, inner].concat()
}

/// Groups of field 100, `depth` of them within one another.
fn groups(depth: usize) -> Vec<u8> {
    [[0xa3, 0x06].repeat(depth), [0xa4, 0x06].repeat(depth)].concat()
}

// spec: frame 3.2, frame 3.14
#[test]
fn fields_come_in_any_order_and_the_last_of_several_counts() {
    let bytes = b"\x40\x01\x28\x02\x22\x01a\x28\x03\x22\x01b\x40\x02\x0a\x01s";
    let expected = Metadata {
        session_id: "s".into(),
        model_id: "b".into(),
        hidden_dim: 3,
        dtype: DType::BFloat16,
        ..Metadata::default()
    };
    assert_eq!(decode(bytes), Ok(expected));
    // Only the value that counts is judged.
    assert_eq!(decode(b"\x40\x09\x40\x01").map(|metadata| metadata.dtype), Ok(DType::Float16));
    assert_eq!(decode(b"\x40\x01\x40\x09"), Err(ErrorCode::UnknownDtype));
}

// spec: frame 3.16
#[test]
fn the_last_of_several_entries_with_one_key_counts() {
    let bytes = [entry(b"\x0a\x01k\x12\x01a"), entry(b"\x12\x01b\x0a\x01k")].concat();
    assert_eq!(decode(&bytes).unwrap().extra, BTreeMap::from([("k".into(), "b".into())]));
}

// spec: frame 3.9
#[test]
fn known_fields_of_another_wire_type_are_skipped() {
    // session_id as a varint, hidden_dim as a string and a group, tensor_shape as 4 and as 8 bytes, extra as a varint.
    let bytes = b"\x08\x01\x2a\x01x\x2b\x2c\x4d1234\x4912345678\x70\x01";
    assert_eq!(decode(bytes), Ok(Metadata::default()));
}

// spec: frame 3.13
#[test]
fn groups_nest_100_deep_and_a_map_entry_is_one_level() {
    assert_eq!(decode(&groups(100)), Ok(Metadata::default()));
    assert_eq!(decode(&groups(101)), Err(ErrorCode::MalformedMetadata));
    assert_eq!(decode(&entry(&groups(99))), Ok(Metadata::default()));
    assert_eq!(decode(&entry(&groups(100))), Err(ErrorCode::MalformedMetadata));
}

// spec: frame 7.1, frame 7.2, frame 7.3, frame 7.6
#[test]
fn fields_are_written_ascending_without_defaults_packed_and_in_the_fewest_bytes() {
    let metadata = Metadata {
        avp_map_id: "x".into(),
        hidden_dim: 300,
        tensor_shape: vec![1, 0, 300],
        payload_checksum: Some(0),
        ..Metadata::default()
    };
    assert_eq!(metadata.to_vec(), b"\x28\xac\x02\x4a\x04\x01\x00\xac\x02\x6a\x01x\x78\x00");
    assert_eq!(Metadata::default().to_vec(), b"");
}

// spec: frame 7.4, frame 7.5
#[test]
fn extra_is_written_in_byte_order_with_both_fields_of_each_entry() {
    let extra = [("b", "1"), ("", ""), ("\u{e9}", ""), ("a", "2")];
    let extra = extra.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let bytes = Metadata { extra, ..Metadata::default() }.to_vec();
    let expected = b"\x72\x04\x0a\x00\x12\x00\x72\x06\x0a\x01a\x12\x012\x72\x06\x0a\x01b\x12\x011\x72\x06\x0a\x02\xc3\xa9\x12\x00";
    assert_eq!(bytes, expected);
}

// spec: extensions 1.2
#[test]
fn keys_that_nobody_knows_are_kept_and_change_nothing() {
    let extra = [("avp.future", "\u{e9}"), ("whatever", "")];
    let extra = extra.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let frame = Frame::new(Metadata { extra, ..Metadata::default() }, vec![1]);
    let wire = frame.encode(&EncodeOptions::default()).unwrap().to_vec();
    let read = Frame::decode(wire.into(), &Limits::strict()).unwrap();
    assert_eq!(read.metadata.extra, frame.metadata.extra);
    assert_eq!(read.kind(), Ok(None));
}

// spec: extensions 4.1, extensions 4.2
#[test]
fn the_fewest_spaces_align_tensor_data_whatever_the_metadata() {
    let options = EncodeOptions { align: true, ..EncodeOptions::default() };
    for payload_type in [PayloadType::HiddenState, PayloadType::KvCache] {
        let offset = if payload_type == PayloadType::KvCache { KvHeader::SIZE } else { 0 };
        let mut pads = Vec::new();
        for len in 0..200 {
            let metadata = Metadata { model_id: "m".repeat(len), payload_type, ..Metadata::default() };
            let head = Frame::new(metadata, vec![0; 17]).encode(&options).unwrap().head;
            assert_eq!((head.len() + offset) % 64, 0, "{len}");
            let pad = FrameHead::decode(&head, &Limits::default()).unwrap().metadata.extra[ext::PAD].clone();
            assert!(pad.len() < 64 && pad.bytes().all(|byte| byte == b' '), "{len}: {pad:?}");
            pads.push(pad.len());
        }
        assert!(pads.contains(&0) && pads.contains(&63));
    }
}

// spec: extensions 4.3
#[test]
fn compressed_frames_are_not_padded() {
    let compression = Some(Compression::Fast);
    let options = EncodeOptions { compression, align: true, ..EncodeOptions::default() };
    let extra = BTreeMap::from([(ext::PAD.to_owned(), "   ".to_owned())]);
    let head =
        Frame::new(Metadata { extra, ..Metadata::default() }, vec![0; 64]).encode(&options).unwrap().head;
    assert!(FrameHead::decode(&head, &Limits::default()).unwrap().metadata.extra.is_empty());
}

// spec: http 3.1
#[test]
fn a_response_is_read_as_metadata_is() {
    let decode = |bytes: &[u8]| TransmitResponse::decode(bytes, &Limits::default());
    // Any order, the last counts, unknown fields and other wire types skipped, the low bits of a bool.
    let bytes = b"\x12\x01a\x08\x00\x12\x01b\x28\x07\x1d1234\x08\x02";
    let expected = TransmitResponse { success: true, message: Some("b".into()), ..Default::default() };
    assert_eq!(decode(bytes), Ok(expected));
    let beyond_64_bits = b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02";
    assert_eq!(decode(beyond_64_bits), Ok(TransmitResponse::default()));
    for (bytes, code) in [
        (&b"\x12\x02a"[..], ErrorCode::MalformedMetadata),
        (b"\x1a\x01\xff", ErrorCode::InvalidUtf8),
        (&[&b"\x12\x80\x80\x04"[..], &[b'x'; 65_536]].concat(), ErrorCode::MetadataTooLarge),
    ] {
        assert_eq!(decode(bytes).unwrap_err().code(), code);
    }
    let many = (0..65_u8).flat_map(|n| [0x22, 3, 0x0a, 1, n]).collect::<Vec<_>>();
    assert_eq!(decode(&many).unwrap_err().code(), ErrorCode::TooManyExtra);
}
