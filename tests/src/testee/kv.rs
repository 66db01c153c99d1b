//! KV-cache payloads, alone and in a frame.

use avp_wire::{Frame, KvDtype, KvError, KvHeader, KvPayload};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::error::Failure;
use super::form::{Hex, Profile, read, sha256};

#[derive(Deserialize)]
struct Payload {
    payload: Hex,
}

pub(super) fn decode(fields: Value) -> Answer {
    let Payload { payload: Hex(payload) } = read(fields)?;
    Ok(shown(&KvPayload::parse(payload)?))
}

#[derive(Deserialize)]
struct Message {
    profile: Profile,
    message: Hex,
}

pub(super) fn read_context(fields: Value) -> Answer {
    let Message { profile, message: Hex(message) } = read(fields)?;
    Ok(shown(&Frame::decode(message, &profile.limits())?.kv()?))
}

fn shown(kv: &KvPayload) -> Value {
    let header = kv.header();
    let layers = 0..header.num_layers;
    let planes: Vec<String> =
        layers.flat_map(|layer| [kv.k(layer), kv.v(layer)]).flatten().map(sha256).collect();
    json!({
        "num_layers": header.num_layers,
        "num_kv_heads": header.num_kv_heads,
        "head_dim": header.head_dim,
        "seq_len": header.seq_len,
        "dtype": header.dtype.byte(),
        "planes": planes,
    })
}

#[derive(Deserialize)]
pub(super) struct HeaderFields {
    num_layers: u32,
    num_kv_heads: u32,
    head_dim: u32,
    seq_len: u32,
    dtype: u8,
}

impl HeaderFields {
    pub(super) fn header(&self) -> Result<KvHeader, KvError> {
        let &Self { num_layers, num_kv_heads, head_dim, seq_len, dtype } = self;
        Ok(KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype: KvDtype::from_byte(dtype)? })
    }
}

#[derive(Deserialize)]
struct Encode {
    #[serde(flatten)]
    header: HeaderFields,
    planes: Vec<Hex>,
}

/// The header, and the planes put where it says they are.
pub(super) fn encode(fields: Value) -> Answer {
    let Encode { header, planes } = read(fields)?;
    let header = header.header()?;
    let wrong = |got: usize| KvError::SizeMismatch {
        expected: header.payload_len().map_or(u64::MAX, |len| len as u64),
        got: got as u64,
    };
    let given = KvHeader::SIZE + planes.iter().map(|plane| plane.0.len()).sum::<usize>();
    if header.payload_len()? != given || planes.len() as u64 != 2 * u64::from(header.num_layers) {
        return Err(wrong(given).into());
    }
    let mut payload = vec![0; given];
    header.write_to(&mut payload)?;
    for (n, Hex(plane)) in (0_u32..).zip(planes) {
        let range = if n % 2 == 0 { header.k_range(n / 2) } else { header.v_range(n / 2) };
        let place = range.and_then(|range| payload.get_mut(range)).filter(|place| place.len() == plane.len());
        place.ok_or_else(|| Failure::from(wrong(given)))?.copy_from_slice(&plane);
    }
    // A cache with a zero count is none, whatever its planes.
    KvPayload::parse(payload.clone().into())?;
    Ok(json!({ "payload": hex::encode(payload) }))
}
