//! Every limit of docs/spec/limits.md: its default, and that it holds at its edge.

use std::collections::BTreeMap;
use std::time::Duration;

use avp_wire::{
    Compression, DecodeError, EncodeError, EncodeOptions, ErrorCode, Fault, Frame, FrameDecoder, FrameHead,
    Header, KvDtype, KvHeader, Limits, Metadata, PayloadType, Profile,
};
use bytes::Bytes;

fn wire(metadata: Metadata, payload: &[u8]) -> Bytes {
    Frame::new(metadata, payload.to_vec()).encode(&EncodeOptions::default()).unwrap().to_vec().into()
}

fn decode(bytes: &Bytes, change: impl Fn(&mut Limits)) -> Result<Frame, ErrorCode> {
    let mut limits = Limits::default();
    change(&mut limits);
    Frame::decode(bytes.clone(), &limits).map_err(|error| error.code())
}

fn with_extra(entries: impl IntoIterator<Item = (String, String)>) -> Metadata {
    Metadata { extra: BTreeMap::from_iter(entries), ..Metadata::default() }
}

#[test]
fn defaults_are_those_of_the_specification() {
    let limits = Limits::default();
    assert_eq!(limits.max_metadata_len, 65_536);
    assert_eq!(limits.max_frame_len, u32::MAX);
    assert_eq!(limits.memory_budget, 2 * 1024 * 1024 * 1024);
    assert_eq!((limits.max_rank, limits.max_extra_entries), (8, 64));
    assert_eq!((limits.max_extra_key_len, limits.max_extra_value_len), (256, 4096));
    assert_eq!((limits.max_window_log, limits.max_slabs), (23, 65_536));
    assert_eq!((limits.handshake_timeout, limits.max_handshake_len), (Duration::from_secs(10), 65_536));
    assert_eq!((limits.max_half_open_per_peer, limits.max_concurrent_transfers), (64, 100));
    assert_eq!(limits.frame_timeout, Duration::from_secs(30));
    assert!(limits.verify_checksum && limits.verify_digest);
    assert_eq!(limits.profile, Profile::Standard);
}

// spec: limits 1.1, frame 2.7
#[test]
fn metadata_is_capped_before_it_is_decoded() {
    let bytes = wire(Metadata { model_id: "m".repeat(100), ..Metadata::default() }, b"");
    let len = Header::decode(&bytes, &Limits::default()).unwrap().metadata_length;
    assert!(decode(&bytes, |limits| limits.max_metadata_len = len).is_ok());
    assert_eq!(decode(&bytes, |limits| limits.max_metadata_len = len - 1), Err(ErrorCode::MetadataTooLarge));
    // What is not decoded may be anything.
    let mut garbled = bytes.to_vec();
    garbled[12..].fill(0xff);
    let over = |limits: &mut Limits| limits.max_metadata_len = len - 1;
    assert_eq!(decode(&garbled.into(), over), Err(ErrorCode::MetadataTooLarge));
}

// spec: limits 2.1, frame 2.7
#[test]
fn frames_are_capped_by_length() {
    let bytes = wire(Metadata::default(), &[0; 100]);
    let len = Header::decode(&bytes, &Limits::default()).unwrap().payload_length;
    assert!(decode(&bytes, |limits| limits.max_frame_len = len).is_ok());
    assert_eq!(decode(&bytes, |limits| limits.max_frame_len = len - 1), Err(ErrorCode::FrameTooLarge));
}

// spec: limits 2.2, limits 2.3, frame 5.11
#[test]
fn payloads_are_capped_by_the_memory_budget_before_and_after_decompression() {
    let bytes = wire(Metadata::default(), &[0; 100]);
    assert!(decode(&bytes, |limits| limits.memory_budget = 100).is_ok());
    assert_eq!(decode(&bytes, |limits| limits.memory_budget = 99), Err(ErrorCode::MemoryBudget));
    let options = EncodeOptions { compression: Some(Compression::Fast), ..EncodeOptions::default() };
    let bytes: Bytes =
        Frame::new(Metadata::default(), vec![0; 100]).encode(&options).unwrap().to_vec().into();
    assert!(decode(&bytes, |limits| limits.memory_budget = 100).is_ok());
    assert_eq!(decode(&bytes, |limits| limits.memory_budget = 99), Err(ErrorCode::MemoryBudget));
}

// spec: limits 4.1, frame 3.18
#[test]
fn rank_is_capped() {
    let bytes = wire(Metadata { tensor_shape: vec![1; 4], ..Metadata::default() }, &[0; 4]);
    assert!(decode(&bytes, |limits| limits.max_rank = 4).is_ok());
    assert_eq!(decode(&bytes, |limits| limits.max_rank = 3), Err(ErrorCode::RankTooHigh));
}

// spec: limits 5.1, limits 5.2, limits 5.3, frame 3.18
#[test]
fn extra_is_capped_by_entries_keys_and_values() {
    let bytes = wire(with_extra((0..5).map(|n| (n.to_string(), String::new()))), b"");
    assert!(decode(&bytes, |limits| limits.max_extra_entries = 5).is_ok());
    assert_eq!(decode(&bytes, |limits| limits.max_extra_entries = 4), Err(ErrorCode::TooManyExtra));
    let bytes = wire(with_extra([("key".into(), "value".into())]), b"");
    assert!(decode(&bytes, |limits| (limits.max_extra_key_len, limits.max_extra_value_len) = (3, 5)).is_ok());
    assert_eq!(decode(&bytes, |limits| limits.max_extra_key_len = 2), Err(ErrorCode::ExtraKeyTooLong));
    assert_eq!(decode(&bytes, |limits| limits.max_extra_value_len = 4), Err(ErrorCode::ExtraValueTooLong));
}

// spec: limits 6.1
#[test]
fn the_zstd_window_is_capped() {
    let options = EncodeOptions { compression: Some(Compression::Balanced), ..EncodeOptions::default() };
    let payload: Vec<u8> = (0..1_u32 << 16).flat_map(|n| (n / 3).to_le_bytes()).collect();
    let bytes: Bytes = Frame::new(Metadata::default(), payload).encode(&options).unwrap().to_vec().into();
    assert!(decode(&bytes, |limits| limits.max_window_log = 18).is_ok());
    let error = decode(&bytes, |limits| limits.max_window_log = 17);
    assert_eq!(error, Err(ErrorCode::WindowTooLarge));
}

#[test]
fn every_level_stays_within_the_default_window() {
    for compression in [Compression::Fast, Compression::Balanced, Compression::Max] {
        let options = EncodeOptions { compression: Some(compression), ..EncodeOptions::default() };
        let frame = Frame::new(Metadata::default(), vec![7; 9 << 20]);
        let bytes: Bytes = frame.encode(&options).unwrap().to_vec().into();
        assert_eq!(decode(&bytes, |_| {}).unwrap().payload, frame.payload, "{compression:?}");
    }
}

// spec: frame 3.7
#[test]
fn checksums_are_verified_unless_trusted() {
    let mut bytes = wire(Metadata::default(), b"payload").to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let bytes = Bytes::from(bytes);
    for limits in [Limits::strict(), Limits::default(), Limits::lenient()] {
        let error = Frame::decode(bytes.clone(), &limits).unwrap_err();
        assert!(matches!(error, DecodeError::ChecksumMismatch { .. }));
        assert_eq!(error.fault(), Fault::Peer);
    }
    assert!(Frame::decode(bytes, &Limits::trusted()).is_ok());
}

#[test]
fn deadlines_grow_with_the_frame_at_the_minimum_rate() {
    let mut limits = Limits::default();
    limits.min_rate = 1000;
    assert_eq!(limits.frame_deadline(0), Duration::from_secs(30));
    assert_eq!(limits.frame_deadline(5000), Duration::from_secs(35));
    limits.min_rate = 0;
    assert_eq!(limits.frame_deadline(u64::MAX), Duration::from_secs(30));
}

// spec: frame 7.8
#[test]
fn a_frame_beyond_32_bits_is_refused_by_the_encoder() {
    // Zeroed memory that nothing touches takes no room.
    let frame = Frame::new(Metadata::default(), vec![0; 1 << 32]);
    let error = frame.encode(&EncodeOptions { checksum: false, ..EncodeOptions::default() }).unwrap_err();
    assert_eq!(error, EncodeError::TooLarge { len: 1 << 32 });
    assert_eq!(error.fault(), Fault::Caller);
}

// spec: frame 8.2, frame 8.3
#[test]
fn in_a_stream_metadata_beyond_the_payload_is_an_error_under_every_profile() {
    let header = Header { payload_length: 2, metadata_length: 10, ..Header::default() }.encode();
    for limits in [Limits::strict(), Limits::default(), Limits::lenient(), Limits::trusted()] {
        let error = Header::decode(&header, &limits).unwrap_err();
        assert_eq!(error.code(), ErrorCode::MetadataBeyondPayload);
        let mut decoder = FrameDecoder::new(limits);
        for _ in 0..2 {
            assert_eq!(decoder.decode(&mut Bytes::copy_from_slice(&header)), Err(error.clone()));
            assert_eq!(decoder.finish(), Err(error.clone()));
        }
    }
}

#[test]
fn payloads_are_shared_and_never_copied() {
    let payload = Bytes::from(vec![7; 1 << 20]);
    let encoded = Frame::new(Metadata::default(), payload.clone()).encode(&EncodeOptions::default()).unwrap();
    assert_eq!(encoded.payload.as_ptr(), payload.as_ptr());
    assert_eq!(encoded.io_slices().map(|slice| slice.len()), [encoded.head.len(), 1 << 20]);
    let wire = Bytes::from(encoded.to_vec());
    let frame = Frame::decode(wire.clone(), &Limits::default()).unwrap();
    assert_eq!(frame.payload.as_ptr(), wire[encoded.head.len()..].as_ptr());
    let mut input = wire.clone();
    let frame = FrameDecoder::new(Limits::default()).decode(&mut input).unwrap().unwrap();
    assert_eq!(frame.payload.as_ptr(), wire[encoded.head.len()..].as_ptr());
    let head = FrameHead::decode(&wire, &Limits::default()).unwrap();
    let frame = head.into_frame(payload.clone(), &Limits::default()).unwrap();
    assert_eq!(frame.payload.as_ptr(), payload.as_ptr());
}

#[test]
fn a_payload_of_another_length_than_announced_is_refused() {
    let wire = wire(Metadata::default(), &[0; 10]);
    let head = FrameHead::decode(&wire, &Limits::default()).unwrap();
    let give = |len: usize| head.clone().into_frame(vec![0; len].into(), &Limits::default());
    assert_eq!(give(9).unwrap_err().code(), ErrorCode::Truncated);
    assert_eq!(give(11).unwrap_err(), DecodeError::TrailingBytes(1));
    assert!(give(10).is_ok());
}

// spec: limits 3.5
#[test]
fn kv_counts_are_held_against_the_bytes_under_every_profile() {
    let header = KvHeader { num_layers: 1, num_kv_heads: 1, head_dim: 2, seq_len: 1, dtype: KvDtype::F16 };
    let lies = KvHeader { num_layers: 150_000, ..header };
    for limits in [Limits::strict(), Limits::default(), Limits::lenient(), Limits::trusted()] {
        let read = |header: KvHeader| {
            let metadata = Metadata { payload_type: PayloadType::KvCache, ..Metadata::default() };
            let bytes = wire(metadata, &[&header.encode()[..], &[0; 8]].concat());
            Frame::decode(bytes, &limits)?.kv().map_err(DecodeError::from)
        };
        assert!(read(header).is_ok());
        let code = read(lies).unwrap_err().code();
        let expected = match limits.profile {
            Profile::Strict => ErrorCode::PayloadSizeMismatch,
            _ => ErrorCode::KvSizeMismatch,
        };
        assert_eq!(code, expected);
    }
}
