//! Streams of frames in any split.

use avp_wire::{ErrorCode, FrameDecoder};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::form::{self, Hex, Profile, read};

#[derive(Deserialize)]
struct Stream {
    profile: Profile,
    pieces: Vec<Hex>,
}

pub(super) fn decode(fields: Value) -> Answer {
    let Stream { profile, pieces } = read(fields)?;
    let mut decoder = FrameDecoder::new(profile.limits());
    let mut frames = Vec::new();
    let end = run(&mut decoder, pieces, &mut frames);
    Ok(json!({ "frames": frames, "end": end.map_or_else(ErrorCode::as_str, |()| "ok") }))
}

fn run(decoder: &mut FrameDecoder, pieces: Vec<Hex>, frames: &mut Vec<Value>) -> Result<(), ErrorCode> {
    for Hex(mut piece) in pieces {
        while let Some(frame) = decoder.decode(&mut piece).map_err(|error| error.code())? {
            frames.push(form::frame(&frame));
        }
    }
    decoder.finish().map_err(|error| error.code())
}
