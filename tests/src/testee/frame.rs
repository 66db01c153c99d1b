//! Whole frames.

use avp_wire::{Compression, EncodeOptions, Frame, FrameHead};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::form::{self, Hex, MetadataFields, Profile, read};

#[derive(Deserialize)]
struct Decode {
    profile: Profile,
    message: Hex,
}

pub(super) fn decode(fields: Value) -> Answer {
    let Decode { profile, message: Hex(message) } = read(fields)?;
    let limits = profile.limits();
    let frame = Frame::decode(message.clone(), &limits)?;
    let header = FrameHead::decode(&message, &limits)?.header;
    let mut result = form::frame(&frame);
    result["flags"] = header.flags.bits().into();
    result["payload_length"] = header.payload_length.into();
    result["metadata_length"] = header.metadata_length.into();
    Ok(result)
}

#[derive(Deserialize)]
struct Encode {
    metadata: MetadataFields,
    payload: Hex,
    #[serde(default)]
    compression: Option<Level>,
    #[serde(default = "yes")]
    checksum: bool,
    #[serde(default)]
    align: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Fast,
    Balanced,
    Max,
}

pub(super) fn encode(fields: Value) -> Answer {
    let Encode { metadata, payload: Hex(payload), compression, checksum, align } = read(fields)?;
    let compression = compression.map(|level| match level {
        Level::Fast => Compression::Fast,
        Level::Balanced => Compression::Balanced,
        Level::Max => Compression::Max,
    });
    let frame = Frame::new(metadata.into_metadata()?, payload);
    let encoded = frame.encode(&EncodeOptions { compression, checksum, align })?;
    Ok(json!({ "message": hex::encode(encoded.to_vec()) }))
}
