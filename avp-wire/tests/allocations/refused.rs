//! What a peer announces costs nothing until its bytes are there.

use avp_wire::slab::{Manifest, Reassembly};
use avp_wire::{Bytes, Flags, Frame, FrameDecoder, Header, KvDtype, KvHeader, Limits};

use crate::{MIB, NEXT_TO_NOTHING, measure};

/// A header that announces these lengths, and the first bytes that follow it.
fn announcing(payload_length: u32, metadata_length: u32, then: &[u8]) -> Bytes {
    let header = Header { flags: Flags::default(), payload_length, metadata_length };
    [&header.encode(), then].concat().into()
}

#[test]
fn lengths_beyond_the_limits_are_refused_without_an_allocation() {
    let limits = Limits::default();
    for wire in [
        announcing(u32::MAX, 0, &[]),
        announcing(u32::MAX, u32::MAX, &[]),
        announcing(u32::MAX, (64 << 10) + 1, &[]),
        announcing(0, u32::MAX, &[]),
    ] {
        let mut input = wire.clone();
        let (info, refused) = measure(|| Frame::decode(wire, &limits).is_err());
        assert!(refused && info.bytes_total == 0, "{info:?}");
        let (info, refused) = measure(|| FrameDecoder::new(limits.clone()).decode(&mut input).is_err());
        assert!(refused && info.bytes_total == 0, "{info:?}");
    }
}

// spec: limits 2.4
#[test]
fn a_length_that_is_announced_within_the_limits_takes_one_first_step() {
    let wire = announcing(2 << 30, 0, &[1; 100]);
    let mut decoder = FrameDecoder::new(Limits::default());
    let (info, frame) = measure(|| decoder.decode(&mut wire.clone()).unwrap());
    assert!(frame.is_none());
    assert!(info.bytes_total <= MIB + NEXT_TO_NOTHING, "{info:?}");

    let wire = announcing(2 << 30, 64 << 10, &[1; 100]);
    let mut decoder = FrameDecoder::new(Limits::default());
    let (info, frame) = measure(|| decoder.decode(&mut wire.clone()).unwrap());
    assert!(frame.is_none());
    assert!(info.bytes_total <= NEXT_TO_NOTHING, "{info:?}");
}

// spec: limits 2.4
#[test]
fn a_payload_that_has_not_begun_takes_nothing() {
    for limits in [Limits::default(), Limits::trusted()] {
        let wire = announcing(2 << 30, 0, &[]);
        let mut decoder = FrameDecoder::new(limits);
        let (info, frame) = measure(|| decoder.decode(&mut wire.clone()).unwrap());
        assert!(frame.is_none() && decoder.head().is_some());
        assert!(info.bytes_total <= NEXT_TO_NOTHING, "{info:?}");
    }
}

#[test]
fn counts_in_headers_and_manifests_take_no_memory() {
    let counts = KvHeader {
        num_layers: u32::from(u16::MAX),
        num_kv_heads: 1,
        head_dim: 1,
        seq_len: u32::MAX,
        dtype: KvDtype::F32,
    };
    let header = counts.encode();
    let (info, read) = measure(|| KvHeader::decode(&header));
    assert_eq!((read.unwrap(), info.bytes_total), (counts, 0));

    let manifest = Manifest::new(counts, 1, 1).encode();
    let transfer: avp_wire::slab::TransferId = "t".parse().unwrap();
    let (info, refused) = measure(|| {
        let manifest = Manifest::decode(&manifest).unwrap();
        Reassembly::new(manifest, transfer.clone(), &Limits::default()).is_err()
    });
    assert!(refused);
    assert!(info.bytes_total <= NEXT_TO_NOTHING, "{info:?}");
}
