//! Frames with something wrong in them, read by the Python SDK and by the lenient profile: both take them and read the
//! same, or both refuse them, but for the differences listed here.
//!
//! `cargo xtask interop` runs it; `cargo xtask fuzz --differential --seconds N` goes on for longer with another seed.
#![expect(clippy::print_stdout, reason = "figures for --nocapture")]

mod common;

use std::time::{Duration, Instant};

use avp_wire::{Compression, EncodeOptions, ErrorCode, Frame, FrameHead, Limits};
use common::frames::{fields, frame};
use common::mutate::mutate;
use common::python::Python;
use common::random::Random;
use serde_json::{Value, json};

/// Frames of a run without a time limit.
const FRAMES: usize = 20_000;
const BATCH: usize = 250;

/// What may differ, and why.
struct Difference {
    reason: &'static str,
    applies: fn(wire: &[u8], here: &Result<Value, ErrorCode>, there: &Value) -> bool,
}

const DIFFERENCES: [Difference; 1] = [Difference {
    reason: "a skippable zstd frame of length 0 is an empty payload there and no zstd frame here (frame 5)",
    applies: |wire, here, there| {
        let payload = FrameHead::decode(wire, &Limits::lenient()).ok().and_then(|head| {
            let end = head.header.frame_len() as usize;
            wire.get(end - head.payload_len_on_wire() as usize..end)
        });
        *here == Err(ErrorCode::InvalidCompression)
            && there["payload"] == ""
            && payload
                .is_some_and(|payload| matches!(payload, [0x50..=0x5f, 0x2a, 0x4d, 0x18, 0, 0, 0, 0, ..]))
    },
}];

/// What the lenient profile reads, in the form of tests/python/differential.py.
fn read(wire: &[u8]) -> Result<Value, ErrorCode> {
    let limits = Limits::lenient();
    let frame = Frame::decode(wire.to_vec().into(), &limits).map_err(|error| error.code())?;
    let header = FrameHead::decode(wire, &limits).map_err(|error| error.code())?.header;
    let lengths = [u32::from(header.flags.bits()), header.payload_length, header.metadata_length];
    Ok(
        json!({ "metadata": fields(&frame.metadata), "header": lengths, "payload": hex::encode(&frame.payload) }),
    )
}

fn mutated(random: &mut Random) -> Vec<u8> {
    let compression = *random.pick(&[None, None, Some(Compression::Fast), Some(Compression::Balanced)]);
    // Without a checksum more of what was changed is read.
    let options = EncodeOptions { compression, checksum: random.below(4) == 0, align: false };
    let mut wire = frame(random).encode(&options).unwrap().to_vec();
    mutate(&mut wire, random);
    wire
}

#[test]
#[ignore = "needs the Python peer: cargo xtask interop"]
fn the_lenient_profile_reads_what_the_sdk_reads() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let time = number("AVP_DIFFERENTIAL_SECONDS").map(Duration::from_secs);
    let seed = number("AVP_DIFFERENTIAL_SEED").unwrap_or(7);
    let mut python = Python::start("differential.py");
    assert_eq!(python.get("version"), "0.6.2", "the reference peer is another version");
    let (started, mut random) = (Instant::now(), Random::new(seed));
    let (mut frames, mut taken, mut used) = (0, 0, [0; DIFFERENCES.len()]);
    while time.map_or(frames < FRAMES, |time| started.elapsed() < time) {
        let batch: Vec<Vec<u8>> = (0..BATCH).map(|_| mutated(&mut random)).collect();
        let messages: Vec<String> = batch.iter().map(hex::encode).collect();
        let answers = python.call("decode_all", json!({ "messages": messages }));
        for (wire, there) in batch.iter().zip(answers.as_array().unwrap()) {
            let here = read(wire);
            frames += 1;
            match &here {
                Ok(read) if read == there => taken += 1,
                Err(_) if there.get("error").is_some() => {}
                _ => {
                    let known = DIFFERENCES.iter().position(|known| (known.applies)(wire, &here, there));
                    let Some(known) = known else {
                        panic!(
                            "seed {seed}, frame {frames}: {}\nhere:  {here:?}\nthere: {there}",
                            hex::encode(wire)
                        );
                    };
                    used[known] += 1;
                }
            }
        }
    }
    println!("{frames} frames, {taken} read alike, seed {seed}, {:.0} s", started.elapsed().as_secs_f64());
    for (difference, count) in DIFFERENCES.iter().zip(used) {
        println!("    {count} times: {}", difference.reason);
        assert!(count > 0, "a difference that does not show is no difference: {}", difference.reason);
    }
    assert!(
        taken > frames / 10 && taken < frames,
        "{taken} of {frames} frames were read: the mutations are no good"
    );
}
