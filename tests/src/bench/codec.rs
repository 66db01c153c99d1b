//! Frames by the codec alone: without a checksum its time is the head's, with one it is a CRC-32 pass.

use std::cell::RefCell;

use anyhow::{Context, Result};
use avp_wire::{
    BufferPool, Bytes, DType, EncodeOptions, Frame, FrameDecoder, Limits, Metadata, Mode, PayloadType,
};

use crate::measure::{Side, alternate, seconds, seconds_of_one};
use crate::report::{Bound, Figure, Group};

const ROUNDS: usize = 31;
const LARGE_ROUNDS: usize = 7;
/// Calls per sample of what takes a microsecond.
const CALLS: u32 = 2000;
const SIZES: [(&str, usize); 3] = [("1 KiB", 1 << 10), ("1 MiB", 1 << 20), ("1 GiB", 1 << 30)];
/// As the last of [`SIZES`], with its checksum.
const LARGE: usize = 1 << 30;
/// What a read from a socket may give.
const PIECE: usize = 64 << 10;
const CRC: &str = "crc32fast, the same memory";
const BY_HAND: &str = "the same copies and sums by hand";

const NO_CHECKSUM: EncodeOptions = EncodeOptions { compression: None, checksum: false, align: false };
const CHECKSUM: EncodeOptions = EncodeOptions { compression: None, checksum: true, align: false };

/// Encode and decode over sizes, then beside a checksum pass.
pub(crate) fn run() -> Result<Group> {
    let mut group = Group::new("Codec, frames of 1 KiB to 1 GiB");
    over_sizes(&mut group)?;
    beside_crc(&mut group)?;
    group.note(format!("without checksum: median of {ROUNDS} alternating rounds of {CALLS} calls; the payload is in memory and is not read"));
    group.note(format!("with checksum: median of {LARGE_ROUNDS} alternating rounds over one payload of 1 GiB; encode and decode of a whole frame sum the memory that crc32fast sums"));
    group.note("the decoder over pieces of 64 KiB copies them into a warm pooled buffer and sums them as they arrive; the other side sums the same pieces and copies nothing; by hand they are copied to warm memory and summed");
    Ok(group)
}

/// Without checksum: each size beside 1 KiB.
fn over_sizes(group: &mut Group) -> Result<()> {
    let frames = SIZES.map(|(_, len)| frame(len));
    let wires = frames.each_ref().map(|frame| wire(frame, &NO_CHECKSUM));
    let limits = Limits::default();
    let encode = |frame: &Frame| seconds_of_one(CALLS, || Ok(frame.encode(&NO_CHECKSUM)?));
    let mut sides = frames.each_ref().map(|frame| -> Side<'_> { Box::new(|| encode(frame)) });
    let encoding = alternate(ROUNDS, &mut sides)?;
    drop(sides);
    let wires = wires.into_iter().collect::<Result<Vec<_>>>()?;
    let decode = |wire: &Bytes| seconds_of_one(CALLS, || Ok(Frame::decode(wire.clone(), &limits)?));
    let mut sides: Vec<Side<'_>> =
        wires.iter().map(|wire| -> Side<'_> { Box::new(|| decode(wire)) }).collect();
    let decoding = alternate(ROUNDS, &mut sides)?;
    for (what, samples) in [("encode", &encoding), ("decode", &decoding)] {
        let (smallest, _) = samples.split_first().context("no samples")?;
        for ((size, _), seconds) in SIZES.iter().zip(samples) {
            let mut figure = Figure::microseconds(format!("{what}, {size}, no checksum"), seconds);
            if *size != SIZES[0].0 {
                figure = figure.cost_beside(SIZES[0].0, seconds, smallest).target(Bound::RatioAtMost(1.5));
            }
            group.figures.push(figure);
        }
    }
    Ok(())
}

/// With checksum: one pass over the payload, beside the same pass by the library that does it.
fn beside_crc(group: &mut Group) -> Result<()> {
    let frame = frame(LARGE);
    // The decoder sums the wire's payload, a copy of the frame's: each is set beside a pass over its own memory.
    let wire = wire(&frame, &CHECKSUM)?;
    let on_wire = wire.slice(wire.len() - LARGE..);
    let limits = Limits::default();
    let pool = BufferPool::new(LARGE * 2);
    drop(pool.get(LARGE, 0));
    let decoder = RefCell::new(FrameDecoder::new(limits.clone()).with_pool(pool));
    let mut copy = vec![1; LARGE];
    let mut sides: [Side<'_>; 7] = [
        Box::new(|| seconds(|| Ok(frame.encode(&CHECKSUM)?))),
        Box::new(|| seconds(|| Ok(crc32fast::hash(&frame.payload)))),
        Box::new(|| seconds(|| Ok(Frame::decode(wire.clone(), &limits)?))),
        Box::new(|| seconds(|| Ok(crc32fast::hash(&on_wire)))),
        Box::new(|| seconds(|| by_pieces(&mut decoder.borrow_mut(), &wire))),
        Box::new(|| seconds(|| Ok(crc_by_pieces(&on_wire, |_, _| ())))),
        Box::new(|| {
            seconds(|| {
                Ok(crc_by_pieces(&on_wire, |at, piece| copy[at..][..piece.len()].copy_from_slice(piece)))
            })
        }),
    ];
    let samples = alternate(LARGE_ROUNDS, &mut sides)?;
    let [encode, encode_crc, decode, decode_crc, pieces, pieces_crc, by_hand] = samples.as_slice() else {
        anyhow::bail!("seven sides were measured");
    };
    let by_pieces = "FrameDecoder, 1 GiB in pieces of 64 KiB, checksum";
    for (what, seconds, beside, other, least) in [
        ("encode, 1 GiB, checksum", encode, CRC, encode_crc, Some(0.8)),
        ("decode, 1 GiB, checksum", decode, CRC, decode_crc, Some(0.8)),
        (by_pieces, pieces, CRC, pieces_crc, None),
        (by_pieces, pieces, BY_HAND, by_hand, None),
    ] {
        let figure = Figure::rate(what, LARGE, seconds).speed_beside(beside, seconds, other);
        group.figures.push(match least {
            Some(least) => figure.target(Bound::RatioAtLeast(least)),
            None => figure,
        });
    }
    Ok(())
}

fn by_pieces(decoder: &mut FrameDecoder, wire: &Bytes) -> Result<Frame> {
    for start in (0..wire.len()).step_by(PIECE) {
        let mut piece = wire.slice(start..wire.len().min(start + PIECE));
        if let Some(frame) = decoder.decode(&mut piece)? {
            return Ok(frame);
        }
    }
    anyhow::bail!("the frame is not whole")
}

/// Sums the payload piece by piece, each after `first` was called with where it starts.
fn crc_by_pieces(payload: &[u8], mut first: impl FnMut(usize, &[u8])) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for (at, piece) in (0..).step_by(PIECE).zip(payload.chunks(PIECE)) {
        first(at, piece);
        hasher.update(piece);
    }
    hasher.finalize()
}

/// A frame with the same metadata whatever its size.
fn frame(len: usize) -> Frame {
    let metadata = Metadata {
        session_id: "0f8a5c1e-5f0e-4a7e-9c39-3b1d2a6f7e10".into(),
        source_agent_id: "thinker".into(),
        target_agent_id: "writer".into(),
        model_id: "Qwen/Qwen2.5-0.5B".into(),
        hidden_dim: 896,
        num_layers: 24,
        payload_type: PayloadType::HiddenState,
        dtype: DType::Float32,
        mode: Mode::Latent,
        ..Metadata::default()
    };
    // Not zeros: those would be one page that stays in cache.
    Frame::new(metadata, vec![0x5a; len])
}

fn wire(frame: &Frame, options: &EncodeOptions) -> Result<Bytes> {
    Ok(frame.encode(options)?.to_vec().into())
}
