//! What encoding and decoding cost: the figures of a 390 MiB frame and of a small head.
//!
//! `cargo run --release -p avp-wire --example throughput`
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::as_conversions)]

use std::hint::black_box;
use std::time::Instant;

use avp_wire::{EncodeOptions, Frame, FrameHead, KvHeader, Limits, Metadata, PayloadType};
use bytes::Bytes;

fn main() {
    let len = 390 << 20;
    let payload =
        Bytes::from((0..len).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>());
    let metadata = Metadata {
        session_id: "0123456789abcdef0123456789abcdef".into(),
        source_agent_id: "agent-a".into(),
        target_agent_id: "agent-b".into(),
        model_id: "Qwen/Qwen2.5-7B-Instruct".into(),
        hidden_dim: 3584,
        num_layers: 28,
        payload_type: PayloadType::KvCache,
        extra: [("model_hash".into(), "ab".repeat(32))].into(),
        ..Metadata::default()
    };
    let (options, limits) = (EncodeOptions::default(), Limits::default());
    let frame = Frame::new(metadata.clone(), payload.clone());
    let rate = |seconds: f64| f64::from(len) / seconds / 1e9;

    let mut copy = vec![1; len as usize];
    println!(
        "memcpy, warm        {:8.2} GB/s",
        rate(best(5, || black_box(&mut copy).copy_from_slice(&payload)))
    );
    let crc = best(5, || {
        black_box(crc32fast::hash(black_box(&payload)));
    });
    println!("CRC-32 alone        {:8.2} GB/s", rate(crc));
    drop(copy);

    let before = reset_peak_kib();
    println!(
        "encode, checksum    {:8.2} GB/s",
        rate(best(5, || drop(black_box(frame.encode(&options).unwrap()))))
    );
    let encoded = frame.encode(&options).unwrap();
    println!("peak memory added   {:8} KiB", peak_kib() - before);

    let wire = Bytes::from(encoded.to_vec());
    drop((payload, frame, encoded));
    let before = reset_peak_kib();
    let decode = || drop(black_box(Frame::decode(wire.clone(), &limits).unwrap()));
    println!("decode, checksum    {:8.2} GB/s", rate(best(5, decode)));
    println!("peak memory added   {:8} KiB", peak_kib() - before);
    let trusted = Limits::trusted();
    let decode = || drop(black_box(Frame::decode(wire.clone(), &trusted).unwrap()));
    println!("decode, no checksum {:8.0} ns", 1e9 * best(1000, decode));

    let small = Frame::new(metadata, vec![0; KvHeader::SIZE]);
    let head = small.encode(&options).unwrap().head;
    let batch = 1000;
    let encode = || (0..batch).for_each(|_| drop(black_box(black_box(&small).encode(&options).unwrap())));
    println!("small head, encode  {:8.0} ns", 1e9 * best(200, encode) / f64::from(batch));
    let decode =
        || (0..batch).for_each(|_| drop(black_box(FrameHead::decode(black_box(&head), &limits).unwrap())));
    println!(
        "small head, decode  {:8.0} ns ({} bytes)",
        1e9 * best(200, decode) / f64::from(batch),
        head.len()
    );
}

/// Seconds of the fastest of `runs`.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// Forgets earlier peaks, where the system lets it, and gives the highest resident memory from here on.
fn reset_peak_kib() -> u64 {
    if std::fs::write("/proc/self/clear_refs", "5").is_err() {
        println!("(peaks cannot be reset here: peak memory added is a lower bound)");
    }
    peak_kib()
}

/// Highest resident memory so far, where the system says it.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}
