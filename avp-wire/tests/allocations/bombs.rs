//! Compressed payloads take memory for content that they can hold and may hold.

use avp_wire::{Bytes, Compression, DecodeError, EncodeOptions, Flags, Frame, Header, Limits, Metadata};

use crate::{NEXT_TO_NOTHING, measure};

/// A frame with these bytes as its compressed payload.
fn compressed(metadata: Metadata, payload: &[u8]) -> Bytes {
    let metadata = Metadata { compression: Some(Compression::NAME.into()), ..metadata }.to_vec();
    let header = Header {
        flags: Flags::COMPRESSED,
        payload_length: u32::try_from(metadata.len() + payload.len()).unwrap(),
        metadata_length: u32::try_from(metadata.len()).unwrap(),
    };
    [&header.encode(), &*metadata, payload].concat().into()
}

/// A zstd frame whose header announces so many bytes, with one empty block.
fn empty_content_announced_as(size: u64) -> Vec<u8> {
    // Magic; a content size of 8 bytes and no single segment; a window of 1 MiB.
    let head = [0x28, 0xb5, 0x2f, 0xfd, 0b1100_0000, 10 << 3];
    [&head[..], &size.to_le_bytes(), &[1, 0, 0]].concat()
}

#[test]
fn content_that_the_frame_cannot_hold_is_refused_before_memory_is_taken_for_it() {
    let budget = Limits::default().memory_budget;
    for size in [1 << 20, 1 << 30, budget, budget + 1, u64::MAX - 2] {
        let wire = compressed(Metadata::default(), &empty_content_announced_as(size));
        for limits in [Limits::default(), Limits::lenient(), Limits::trusted()] {
            let (info, refused) = measure(|| Frame::decode(wire.clone(), &limits));
            assert!(refused.is_err(), "{size}");
            assert!(info.bytes_total <= NEXT_TO_NOTHING, "{size}: {info:?}");
        }
    }
}

#[test]
fn content_beyond_the_budget_or_the_shape_is_refused_before_memory_is_taken_for_it() {
    let bomb = zstd::bulk::compress(&vec![0; 16 << 20], 1).unwrap();
    let mut tight = Limits::default();
    tight.memory_budget = 1 << 20;
    let shaped = Metadata { tensor_shape: vec![4], ..Metadata::default() };
    for (metadata, limits) in [(Metadata::default(), tight), (shaped, Limits::default())] {
        let wire = compressed(metadata, &bomb);
        let (info, refused) = measure(|| Frame::decode(wire, &limits));
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, DecodeError::MemoryBudget { .. } | DecodeError::PayloadSizeMismatch { .. }),
            "{refused}"
        );
        assert!(info.bytes_total <= NEXT_TO_NOTHING, "{info:?}");
    }
}

#[test]
fn content_that_is_there_is_taken_however_small_the_frame() {
    for compression in [Compression::Fast, Compression::Balanced, Compression::Max] {
        let frame = Frame::new(Metadata::default(), vec![0; 16 << 20]);
        let options = EncodeOptions { compression: Some(compression), ..EncodeOptions::default() };
        let wire: Bytes = frame.encode(&options).unwrap().to_vec().into();
        let (info, decoded) = measure(|| Frame::decode(wire, &Limits::default()).unwrap());
        assert_eq!(decoded.payload, frame.payload);
        assert!(info.bytes_total <= (16 << 20) + NEXT_TO_NOTHING, "{info:?}");
    }
    // As many bytes as a zstd frame can hold: blocks of 4 bytes that repeat a byte 128 KiB long.
    let blocks = 64_u64;
    let mut frame = empty_content_announced_as(blocks << 17);
    frame.truncate(frame.len() - 3);
    for block in 1..=blocks {
        let header = (128 << 10) << 3 | 1 << 1 | u32::from(block == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(7);
    }
    let decoded = Frame::decode(compressed(Metadata::default(), &frame), &Limits::default()).unwrap();
    assert_eq!(decoded.payload, vec![7; 8 << 20]);
}
