//! What [`FrameDecoder`] promises beyond the bytes: views, pools, judging early, checksums.

use avp_wire::{
    BufferPool, ChecksumCheck, Compression, DecodeError, EncodeOptions, ErrorCode, Frame, FrameDecoder,
    Limits, Metadata, PayloadType,
};
use bytes::Bytes;

fn encode(frame: &Frame, compression: Option<Compression>) -> Vec<u8> {
    frame.encode(&EncodeOptions { compression, ..EncodeOptions::default() }).unwrap().to_vec()
}

fn kv_frame(len: usize) -> Frame {
    let metadata = Metadata { payload_type: PayloadType::KvCache, ..Metadata::default() };
    Frame::new(metadata, (0..len).map(|n| n as u8).collect::<Vec<_>>())
}

fn feed(decoder: &mut FrameDecoder, wire: &[u8], piece: usize) -> Result<Vec<Frame>, DecodeError> {
    let mut frames = Vec::new();
    for piece in wire.chunks(piece) {
        let mut piece = Bytes::copy_from_slice(piece);
        while let Some(frame) = decoder.decode(&mut piece)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

#[test]
fn gathered_payloads_are_aligned_and_recycled_by_the_pool() {
    let (pool, frame) = (BufferPool::new(64 << 20), kv_frame(3 << 20));
    let mut decoder = FrameDecoder::new(Limits::default()).with_pool(pool.clone());
    let wire = encode(&frame, None);
    let frames = feed(&mut decoder, &wire, 100_000).unwrap();
    assert_eq!(frames[0].payload, frame.payload);
    // Tensor data of a KV cache starts after its header.
    assert_eq!(frames[0].payload[17..].as_ptr().align_offset(64), 0);
    drop(frames);
    let kept = pool.kept_bytes();
    assert!(kept >= 3 << 20);
    let frames = feed(&mut decoder, &wire, 100_000).unwrap();
    assert!(pool.kept_bytes() < kept, "the second frame takes the buffer of the first");
    assert_eq!(frames[0].payload, frame.payload);
}

#[test]
fn gathered_payloads_are_aligned_without_a_pool() {
    for len in [18, 20_000, 3 << 20] {
        let frames = feed(&mut FrameDecoder::new(Limits::default()), &encode(&kv_frame(len), None), 9_999);
        let frames = frames.unwrap();
        assert_eq!(frames[0].payload, kv_frame(len).payload);
        if len > 9_999 {
            assert_eq!(frames[0].payload[17..].as_ptr().align_offset(64), 0);
        }
    }
}

#[test]
fn a_head_can_be_judged_before_the_payload_is_there() {
    let wire = encode(&kv_frame(1000), None);
    let head_len = wire.len() - 1000;
    let mut decoder = FrameDecoder::new(Limits::default());
    assert_eq!(decoder.decode_head(&mut Bytes::copy_from_slice(&wire[..head_len - 1])), Ok(None));
    let mut rest = Bytes::copy_from_slice(&wire[head_len - 1..head_len]);
    let head = decoder.decode_head(&mut rest).unwrap().unwrap();
    assert_eq!((head.metadata.payload_type, head.payload_len_on_wire()), (PayloadType::KvCache, 1000));
    let mut payload = Bytes::copy_from_slice(&wire[head_len..]);
    assert!(decoder.decode_head(&mut payload).unwrap().is_some());
    assert_eq!(payload.len(), 1000, "judging takes nothing of the payload");
    assert_eq!(decoder.decode(&mut payload).unwrap().unwrap().payload.len(), 1000);
}

// spec: frame 8.1
#[test]
fn nothing_is_taken_on_the_word_of_a_head_alone() {
    let (pool, wire) = (BufferPool::new(64 << 20), encode(&kv_frame(3 << 20), None));
    drop(pool.get(3 << 20, 0));
    let kept = pool.kept_bytes();
    let head_len = wire.len() - (3 << 20);
    let mut decoder = FrameDecoder::new(Limits::default()).with_pool(pool.clone());
    assert_eq!(decoder.decode(&mut Bytes::copy_from_slice(&wire[..head_len])), Ok(None));
    assert_eq!(pool.kept_bytes(), kept);
    // The payload that comes in one piece is a view of it.
    let mut payload = Bytes::copy_from_slice(&wire[head_len..]);
    let start = payload.as_ptr();
    assert_eq!(decoder.decode(&mut payload).unwrap().unwrap().payload.as_ptr(), start);
}

#[test]
fn a_frame_without_payload_is_whole_with_its_head() {
    let mut wire = Bytes::from(encode(&Frame::default(), None));
    let mut decoder = FrameDecoder::new(Limits::default());
    assert!(decoder.decode_head(&mut wire).unwrap().is_some());
    assert_eq!(decoder.finish(), Ok(()));
}

#[test]
fn a_discarded_payload_passes_by_wherever_the_frame_is_split() {
    let mut unwanted = encode(&kv_frame(50), None);
    // Nobody looks at it, so nobody finds that it is damaged.
    *unwanted.last_mut().unwrap() ^= 1;
    let next = kv_frame(20);
    let wire = [unwanted.clone(), encode(&next, None)].concat();
    for split in 0..wire.len() {
        let mut decoder = FrameDecoder::new(Limits::default());
        let (mut frames, mut judged) = (Vec::new(), false);
        for part in [&wire[..split], &wire[split..]] {
            let mut part = Bytes::copy_from_slice(part);
            loop {
                match decoder.decode_head(&mut part).unwrap() {
                    Some(_) if !judged => decoder.discard(),
                    Some(_) => frames.extend(decoder.decode(&mut part).unwrap()),
                    None => break,
                }
                judged = true;
                if part.is_empty() {
                    break;
                }
            }
        }
        assert_eq!(frames.iter().map(|frame| &frame.payload).collect::<Vec<_>>(), [&next.payload], "{split}");
        assert_eq!(decoder.finish(), Ok(()));
    }
    let mut decoder = FrameDecoder::new(Limits::default());
    let mut part = Bytes::copy_from_slice(&unwanted[..unwanted.len() - 1]);
    decoder.decode_head(&mut part).unwrap();
    decoder.discard();
    assert_eq!(decoder.decode(&mut part), Ok(None));
    let len = unwanted.len() as u64;
    assert_eq!(decoder.finish(), Err(DecodeError::Truncated { needed: len, got: len - 1 }));
}

// spec: frame 3.7
#[test]
fn checksums_are_verified_however_bytes_arrive_unless_deferred() {
    for compression in [None, Some(Compression::Fast)] {
        let mut frame = kv_frame(0);
        frame.metadata.payload_type = PayloadType::HiddenState;
        frame.payload = vec![7; 5000].into();
        let mut wire = encode(&frame, compression);
        let sound = wire.clone();
        // Field 15 is the last of the metadata: its last byte.
        let at = wire.len()
            - frame.encode(&EncodeOptions { compression, ..Default::default() }).unwrap().payload.len()
            - 1;
        wire[at] ^= 1;
        for piece in [1, 100, wire.len()] {
            let mut decoder = FrameDecoder::new(Limits::default());
            let error = feed(&mut decoder, &wire, piece).unwrap_err();
            assert_eq!(error.code(), ErrorCode::ChecksumMismatch, "{compression:?} {piece}");
            assert_eq!(decoder.finish(), Err(error));
            let mut decoder = FrameDecoder::new(Limits::default()).with_checksum(ChecksumCheck::Deferred);
            let frames = feed(&mut decoder, &wire, piece).unwrap();
            assert_eq!(frames[0].verify_checksum().unwrap_err().code(), ErrorCode::ChecksumMismatch);
            assert!(feed(&mut FrameDecoder::new(Limits::trusted()), &wire, piece).is_ok());
            let frames = feed(&mut FrameDecoder::new(Limits::default()), &sound, piece).unwrap();
            assert_eq!(frames[0].verify_checksum(), Ok(()));
        }
    }
}

// spec: frame 8.4
#[test]
fn the_end_of_a_stream_inside_a_frame_says_what_is_missing() {
    let wire = encode(&kv_frame(30), None);
    let head_len = wire.len() as u64 - 30;
    for end in 0..wire.len() {
        let mut decoder = FrameDecoder::new(Limits::default());
        feed(&mut decoder, &wire[..end], 7).unwrap();
        let got = end as u64;
        let expected = match got {
            0 => Ok(()),
            1..12 => Err(DecodeError::Truncated { needed: 12, got }),
            _ if got < head_len => Err(DecodeError::Truncated { needed: head_len, got }),
            _ => Err(DecodeError::Truncated { needed: wire.len() as u64, got }),
        };
        assert_eq!(decoder.finish(), expected, "{end}");
    }
}
