//! Frames: encode and decode beside the Python SDK on the same bytes.

use std::cell::RefCell;
use std::io::Write;

use anyhow::{Context, Result};
use avp_wire::{
    Bytes, DType, EncodeOptions, Frame, FrameHead, KvDtype, KvHeader, Limits, Metadata, Mode, PayloadType,
};
use serde_json::{Value, json};

use crate::measure::{Side, alternate, peak_extra, seconds, seconds_of_one};
use crate::peer::Peer;
use crate::report::{Bound, Figure, Group};

const SDK: &str = "Python SDK";
const ROUNDS: usize = 7;
/// Calls per sample of a small frame.
const SMALL_CALLS: u32 = 2000;
const SMALL_ROUNDS: usize = 21;

/// Encode and decode of 390 MiB with checksum.
pub(crate) fn large(mut sdk: Option<&mut Peer>) -> Result<Group> {
    let frame = kv_frame(390 << 20)?;
    let bytes = frame.payload.len();
    let wire: Bytes = frame.encode(&EncodeOptions::default())?.to_vec().into();
    let file = hand_over(&wire, sdk.as_deref_mut())?;
    let mut group = Group::new("Frame of 390 MiB with checksum");
    for (name, op) in [("encode", "encode"), ("decode", "decode")] {
        let cell = sdk.as_deref_mut().map(RefCell::new);
        let rust = || match op {
            "encode" => seconds(|| Ok(frame.encode(&EncodeOptions::default())?)),
            _ => seconds(|| Ok(Frame::decode(wire.clone(), &Limits::default())?)),
        };
        let mut sides: Vec<Side<'_>> = vec![Box::new(rust)];
        if let Some(sdk) = &cell {
            sides.push(Box::new(|| sdk.borrow_mut().seconds(&json!({ "op": op }))));
        }
        let samples = alternate(ROUNDS, &mut sides)?;
        group.figures.push(beside_sdk(Figure::rate(name, bytes, &samples[0]), &samples, Some(8.0)));
    }
    memory(&mut group, &frame, &wire, sdk)?;
    group.note(format!(
        "median of {ROUNDS} alternating rounds; payload {bytes} bytes, in memory on both sides"
    ));
    group.note(
        "memory: peak resident set during one call less what was resident before it (VmHWM after a reset)",
    );
    drop(file);
    Ok(group)
}

/// Peak memory of one encode and one decode.
fn memory(group: &mut Group, frame: &Frame, wire: &Bytes, mut sdk: Option<&mut Peer>) -> Result<()> {
    let (encode, _) = peak_extra(|| Ok(frame.encode(&EncodeOptions::default())?))?;
    let (decode, _) = peak_extra(|| Ok(Frame::decode(wire.clone(), &Limits::default())?))?;
    for (name, op, extra) in [("encode", "encode", encode), ("decode", "decode", decode)] {
        let Some(extra) = extra else {
            group.note(format!("memory of {name} is not measured on this system"));
            continue;
        };
        let mib = |bytes: f64| bytes / f64::from(1 << 20);
        let name = format!("{name}, memory beyond the payload");
        group
            .figures
            .push(Figure::of(name.clone(), "MiB", mib(extra as f64)).target(Bound::ValueAtMost(1.0)));
        if let Some(sdk) = &mut sdk {
            let answer = sdk.ask(&json!({ "op": op, "memory": true }))?;
            if let Some(extra) = answer.get("extra").and_then(Value::as_f64) {
                group.note(format!("{name}: {:.0} MiB in the {SDK}", mib(extra)));
            }
        }
    }
    Ok(())
}

/// Head and whole frame of 16 KiB.
pub(crate) fn small(mut sdk: Option<&mut Peer>) -> Result<Group> {
    let frame = kv_frame(16 << 10)?;
    let wire: Bytes = frame.encode(&EncodeOptions::default())?.to_vec().into();
    let file = hand_over(&wire, sdk.as_deref_mut())?;
    let mut group = Group::new("Frame of 16 KiB");
    let no_checksum = EncodeOptions { checksum: false, ..EncodeOptions::default() };
    let limits = Limits::default();
    let cell = sdk.map(RefCell::new);
    let cases: [(&str, &str, Option<f64>, Side<'_>); 4] = [
        (
            "encode, head only (no checksum)",
            "encode",
            Some(2.0),
            Box::new(|| seconds_of_one(SMALL_CALLS, || Ok(frame.encode(&no_checksum)?))),
        ),
        (
            "decode, head only",
            "decode",
            Some(2.0),
            Box::new(|| seconds_of_one(SMALL_CALLS, || Ok(FrameHead::decode(&wire, &limits)?))),
        ),
        (
            "encode, whole frame with checksum",
            "encode",
            None,
            Box::new(|| seconds_of_one(SMALL_CALLS, || Ok(frame.encode(&EncodeOptions::default())?))),
        ),
        (
            "decode, whole frame with checksum",
            "decode",
            None,
            Box::new(|| seconds_of_one(SMALL_CALLS, || Ok(Frame::decode(wire.clone(), &limits)?))),
        ),
    ];
    for (name, op, most, rust) in cases {
        let mut sides = vec![rust];
        if let Some(sdk) = &cell {
            let request = json!({ "op": op, "calls": SMALL_CALLS });
            sides.push(Box::new(move || sdk.borrow_mut().seconds(&request)));
        }
        let samples = alternate(SMALL_ROUNDS, &mut sides)?;
        let mut figure = beside_sdk(Figure::microseconds(name, &samples[0]), &samples, None);
        if let Some(most) = most {
            figure = figure.target(Bound::ValueAtMost(most));
        }
        group.figures.push(figure);
    }
    group.note(format!("median of {SMALL_ROUNDS} alternating rounds of {SMALL_CALLS} calls; the metadata of a KV cache with its model's hash; the {SDK} always does the whole frame with checksum"));
    drop(file);
    Ok(group)
}

fn beside_sdk(figure: Figure, samples: &[Vec<f64>], least: Option<f64>) -> Figure {
    match (samples, least) {
        ([ours, sdk, ..], Some(least)) => {
            figure.speed_beside(SDK, ours, sdk).target(Bound::RatioAtLeast(least))
        }
        ([ours, sdk, ..], None) => figure.speed_beside(SDK, ours, sdk),
        _ => figure,
    }
}

/// Lets the SDK read the frame from a file, if there is an SDK.
fn hand_over(wire: &Bytes, sdk: Option<&mut Peer>) -> Result<Option<tempfile::NamedTempFile>> {
    let Some(sdk) = sdk else { return Ok(None) };
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(wire)?;
    let path = file.path().to_str().context("the temporary folder's name is not UTF-8")?;
    sdk.ask(&json!({ "op": "load", "path": path }))?;
    Ok(Some(file))
}

/// A frame with a KV cache of about `bytes` (Qwen2.5-0.5B's shape where it fits) and the metadata of a context.
fn kv_frame(bytes: usize) -> Result<Frame> {
    let mut header =
        KvHeader { num_layers: 24, num_kv_heads: 2, head_dim: 64, seq_len: 1, dtype: KvDtype::F32 };
    if bytes < 1 << 20 {
        header.num_layers = 2;
    }
    let per_token = header.payload_len()? - KvHeader::SIZE;
    header.seq_len = u32::try_from(bytes / per_token)?;
    let mut payload = vec![0; header.payload_len()?];
    let planes = header.write_to(&mut payload)?;
    // Bytes without a pattern: a checksum takes the same time, but nothing may profit from zero pages.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for chunk in planes.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    let text = |s: &str| s.to_owned();
    let metadata = Metadata {
        session_id: text("0f8a5c1e-5f0e-4a7e-9c39-3b1d2a6f7e10"),
        source_agent_id: text("thinker"),
        target_agent_id: text("writer"),
        model_id: text("Qwen/Qwen2.5-0.5B"),
        hidden_dim: 896,
        num_layers: header.num_layers,
        payload_type: PayloadType::KvCache,
        dtype: DType::Float32,
        mode: Mode::Latent,
        extra: [
            (
                avp_wire::ext::MODEL_HASH,
                text("5d2c1b9a8f7e6d5c4b3a29181706f5e4d3c2b1a0f9e8d7c6b5a4938271605f4e"),
            ),
            (avp_wire::ext::MODEL_FAMILY, text("qwen2")),
            (avp_wire::ext::NUM_STEPS, text("20")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into(),
        ..Metadata::default()
    };
    Ok(Frame::new(metadata, payload))
}
