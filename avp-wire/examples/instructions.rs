//! The work whose instructions `cargo xtask bench --check` counts under callgrind.
//!
//! `instructions NAME COUNT` does one thing COUNT times; without arguments it lists the names. Two runs with different
//! counts differ by the work alone: what the program does before and after it cancels out. Nothing here runs code that
//! depends on the CPU's features, as a checksum would.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;

use avp_wire::{
    DType, EncodeOptions, Frame, Header, KvDtype, KvHeader, Limits, Metadata, Mode, PayloadType, ext,
};

/// Does one thing so many times.
type Work = fn(u32);

const WORK: [(&str, Work); 5] = [
    ("header_parse", header_parse),
    ("metadata_decode", metadata_decode),
    ("metadata_decode_3_extra", metadata_decode_3_extra),
    ("frame_encode_1_kib", frame_encode),
    ("kv_header_parse", kv_header_parse),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.as_slice() {
        [name, count] => {
            let (_, work) = WORK.iter().find(|(known, _)| known == name).unwrap();
            work(count.parse().unwrap());
        }
        _ => WORK.iter().for_each(|(name, _)| println!("{name}")),
    }
}

/// The arguments pass through `black_box` each time, so that no call is moved out of the loop.
fn repeat<T>(count: u32, mut call: impl FnMut() -> T) {
    for _ in 0..count {
        black_box(call());
    }
}

fn header_parse(count: u32) {
    let (wire, limits) = (frame(0).encode(&NO_CHECKSUM).unwrap().head, Limits::default());
    repeat(count, || Header::decode(black_box(&wire), black_box(&limits)).unwrap());
}

fn metadata_decode(count: u32) {
    decode(count, &metadata(0));
}

fn metadata_decode_3_extra(count: u32) {
    decode(count, &metadata(3));
}

fn decode(count: u32, metadata: &Metadata) {
    let (bytes, limits) = (metadata.to_vec(), Limits::default());
    repeat(count, || Metadata::decode(black_box(&bytes), black_box(&limits)).unwrap());
}

fn frame_encode(count: u32) {
    let frame = frame(1 << 10);
    repeat(count, || black_box(&frame).encode(black_box(&NO_CHECKSUM)).unwrap());
}

fn kv_header_parse(count: u32) {
    let header =
        KvHeader { num_layers: 24, num_kv_heads: 2, head_dim: 64, seq_len: 4096, dtype: KvDtype::F16 };
    let bytes = header.encode();
    repeat(count, || KvHeader::decode(black_box(&bytes)).unwrap());
}

const NO_CHECKSUM: EncodeOptions = EncodeOptions { compression: None, checksum: false, align: false };

fn frame(payload: usize) -> Frame {
    Frame::new(metadata(3), vec![7; payload])
}

/// What a sender says of a context, with so many entries of `extra`.
fn metadata(extra: usize) -> Metadata {
    let entries = [
        (ext::MODEL_HASH, "5d".repeat(32)),
        (ext::MODEL_FAMILY, "qwen2".into()),
        (ext::NUM_STEPS, "20".into()),
    ];
    Metadata {
        session_id: "0f8a5c1e-5f0e-4a7e-9c39-3b1d2a6f7e10".into(),
        source_agent_id: "thinker".into(),
        target_agent_id: "writer".into(),
        model_id: "Qwen/Qwen2.5-0.5B".into(),
        hidden_dim: 896,
        num_layers: 24,
        payload_type: PayloadType::HiddenState,
        dtype: DType::Float32,
        mode: Mode::Latent,
        extra: entries.into_iter().take(extra).map(|(key, value)| (key.to_owned(), value)).collect(),
        ..Metadata::default()
    }
}
