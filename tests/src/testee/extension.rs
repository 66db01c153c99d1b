//! The syntax of registered keys of `extra`.

use avp_handshake::json::Json;
use avp_wire::ext::{self, ExtError, FrameKind, SlabId};
use avp_wire::slab::TransferId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::form::read;

/// One less than the alignment. The encoder alone uses the key, so that no reader of this workspace checks it.
const MAX_PAD: usize = 63;

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
        ext::TRANSFER => value.parse::<TransferId>().map(drop),
        ext::TOKENS => ext::parse_count(ext::TOKENS, value).map(drop),
        ext::ENDING => ext::parse_probability(ext::ENDING, value).map(drop),
        ext::PAD if value.len() > MAX_PAD || value.bytes().any(|byte| byte != b' ') => {
            Err(ExtError { key: ext::PAD })
        }
        ext::TEXT if !is_ascii_string(value) => Err(ExtError { key: ext::TEXT }),
        _ => Ok(()),
    }
}

/// Whoever reads this key (the crate `avp`) needs an engine; what it asks of the value is this.
fn is_ascii_string(value: &str) -> bool {
    value.is_ascii() && matches!(Json::parse(value.as_bytes()), Ok(Json::String(_)))
}
