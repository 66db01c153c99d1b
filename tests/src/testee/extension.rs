//! The syntax of registered keys of `extra`.

use avp_wire::ext::{self, ExtError, FrameKind, SlabId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::form::read;

#[derive(Deserialize)]
struct Entry {
    key: String,
    value: String,
}

pub(super) fn check(fields: Value) -> Answer {
    let Entry { key, value } = read(fields)?;
    read_as(&key, &value)?;
    Ok(json!({}))
}

fn read_as(key: &str, value: &str) -> Result<(), ExtError> {
    match key {
        ext::KIND => value.parse::<FrameKind>().map(drop),
        ext::SLAB => value.parse::<SlabId>().map(drop),
        ext::BLAKE3 => ext::parse_hash(ext::BLAKE3, value).map(drop),
        ext::WEIGHTS => ext::parse_hash(ext::WEIGHTS, value).map(drop),
        _ => Ok(()),
    }
}
