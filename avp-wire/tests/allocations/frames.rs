//! Frames of any size take no more than their metadata does, beside the buffer that the bytes come in.

use allocation_counter::AllocationInfo;
use avp_wire::{BufferPool, Bytes, EncodeOptions, Frame, FrameDecoder, FrameHead, Limits, PayloadType};

use crate::{KIB, MIB, full_metadata, measure};

const CEILING: u64 = 64 * KIB;
const SIZES: [u64; 3] = [KIB, MIB, 64 * MIB];
/// What a read from a socket may give.
const PIECE: usize = 64 << 10;

fn frame(len: u64) -> Frame {
    let metadata = avp_wire::Metadata { payload_type: PayloadType::KvCache, ..full_metadata(3) };
    Frame::new(metadata, vec![0; usize::try_from(len).unwrap()])
}

fn wire(len: u64) -> Bytes {
    frame(len).encode(&EncodeOptions::default()).unwrap().to_vec().into()
}

/// Decodes the frame as pieces come.
fn gather(decoder: &mut FrameDecoder, wire: &Bytes) -> Frame {
    let mut frame = None;
    for start in (0..wire.len()).step_by(PIECE) {
        let mut piece = wire.slice(start..wire.len().min(start + PIECE));
        frame = decoder.decode(&mut piece).unwrap();
    }
    frame.unwrap()
}

fn assert_ceiling(what: &str, len: u64, info: &AllocationInfo) {
    assert!(info.bytes_total <= CEILING, "{what}, payload of {len} bytes: {info:?}");
    assert!(info.bytes_total > 0, "{what}: metadata has to be somewhere");
}

#[test]
fn decoding_any_size_allocates_at_most_64_kib_beyond_the_receive_buffer() {
    let limits = Limits::default();
    for len in SIZES {
        let wire = wire(len);
        let (info, frame) = measure(|| Frame::decode(wire.clone(), &limits).unwrap());
        assert_eq!(frame.payload.len() as u64, len);
        assert_ceiling("Frame::decode", len, &info);
        let (info, _head) = measure(|| FrameHead::decode(&wire, &limits).unwrap());
        assert_ceiling("FrameHead::decode", len, &info);
        let one_piece = || FrameDecoder::new(limits.clone()).decode(&mut wire.clone()).unwrap().unwrap();
        let (info, _frame) = measure(one_piece);
        assert_ceiling("FrameDecoder, one piece", len, &info);
    }
}

#[test]
fn decoding_pieces_into_a_warm_pool_allocates_at_most_64_kib_beyond_it() {
    for len in SIZES {
        let wire = wire(len);
        let pool = BufferPool::new(128 << 20);
        drop(pool.get(usize::try_from(len).unwrap(), 0));
        let kept = pool.kept_bytes();
        let mut decoder = FrameDecoder::new(Limits::default()).with_pool(pool.clone());
        let (info, frame) = measure(|| gather(&mut decoder, &wire));
        assert_eq!(frame.payload.len() as u64, len);
        assert_ceiling("FrameDecoder, pieces", len, &info);
        drop(frame);
        assert_eq!(pool.kept_bytes(), kept);
    }
}

/// Without a pool the gathered payload is the receive buffer. It is 1 MiB first and then four times what has come,
/// so that the bytes announced cost nothing; each step has room to align the tensor data.
#[test]
fn decoding_pieces_without_a_pool_allocates_at_most_64_kib_beyond_the_growing_buffer() {
    for len in SIZES {
        let wire = wire(len);
        let mut decoder = FrameDecoder::new(Limits::default());
        let (info, frame) = measure(|| gather(&mut decoder, &wire));
        assert_eq!(frame.payload.len() as u64, len);
        let steps = std::iter::successors(Some(MIB), |step| (*step < len).then_some(step * 4));
        let buffers: u64 = steps.map(|step| step.min(len) + 64).sum();
        assert!(info.bytes_total <= buffers + CEILING, "payload of {len} bytes: {info:?}");
        assert!(info.bytes_max <= len + len / 4 + MIB + CEILING, "payload of {len} bytes: {info:?}");
    }
}

#[test]
fn encoding_any_size_allocates_at_most_64_kib_beside_the_payload() {
    for len in SIZES {
        let frame = frame(len);
        for checksum in [false, true] {
            let options = EncodeOptions { checksum, ..EncodeOptions::default() };
            let (info, encoded) = measure(|| frame.encode(&options).unwrap());
            assert_eq!(encoded.payload.len() as u64, len);
            assert_ceiling("Frame::encode", len, &info);
        }
    }
}
