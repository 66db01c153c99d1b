//! Reading metadata (docs/spec/frame.md, section 3): any order, the last scalar wins, unknown fields and known fields
//! of another wire type are skipped, varints that are too long are cut to 32 bits. Limits hold while reading.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::{DType, Metadata, Mode, PayloadType};
use crate::error::DecodeError;
use crate::limits::Limits;
use crate::proto::{Field, Reader, Value};

impl Metadata {
    /// Reads the protobuf message that fills `bytes`.
    ///
    /// All that it allocates, what it drops on the way included, is at most `bytes.len()` + 8 KiB under the default
    /// bounds on rank and entries, so 72 KiB for the longest metadata: each text is copied once, 8 dimensions take
    /// 48 bytes, and 65 entries of `extra` at most 7.5 KiB of map nodes. Without these bounds, as in the lenient profile,
    /// it is at most 24 times `bytes.len()` + 2 KiB: an entry takes 5 bytes or more and a key, a value and its share of
    /// nodes at most 114; a dimension takes a byte or more and, as the list doubles, 16.
    ///
    /// # Errors
    /// `MetadataTooLarge` before anything is decoded, `MalformedMetadata`, `InvalidUtf8`, `Unknown*` for the
    /// enumerations, and the limits on rank and `extra`.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if len > limits.max_metadata_len {
            return Err(DecodeError::MetadataTooLarge { len, max: limits.max_metadata_len });
        }
        let mut metadata = Self::default();
        let (mut payload_type, mut dtype, mut mode) = (0, 0, 0);
        let mut reader = Reader::new(bytes);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Bytes(s)) => metadata.session_id = text(number, s)?,
                (2, Value::Bytes(s)) => metadata.source_agent_id = text(number, s)?,
                (3, Value::Bytes(s)) => metadata.target_agent_id = text(number, s)?,
                (4, Value::Bytes(s)) => metadata.model_id = text(number, s)?,
                (5, Value::Varint(n)) => metadata.hidden_dim = low_u32(n),
                (6, Value::Varint(n)) => metadata.num_layers = low_u32(n),
                (7, Value::Varint(n)) => payload_type = low_i32(n),
                (8, Value::Varint(n)) => dtype = low_i32(n),
                (9, Value::Varint(n)) => push_dim(&mut metadata.tensor_shape, n, limits)?,
                (9, Value::Bytes(packed)) => {
                    let mut packed = reader.nested(packed);
                    while let Some(n) = packed.next_varint()? {
                        push_dim(&mut metadata.tensor_shape, n, limits)?;
                    }
                }
                (10, Value::Varint(n)) => mode = low_i32(n),
                (11, Value::Bytes(s)) => metadata.compression = Some(text(number, s)?),
                (13, Value::Bytes(s)) => metadata.avp_map_id = text(number, s)?,
                (14, Value::Bytes(entry)) => {
                    read_entry(reader.nested(entry), number, &mut metadata.extra, limits)?;
                }
                (15, Value::Varint(n)) => metadata.payload_checksum = Some(low_u32(n)),
                _ => {}
            }
        }
        metadata.payload_type = PayloadType::from_number(payload_type)?;
        metadata.dtype = DType::from_number(dtype)?;
        metadata.mode = Mode::from_number(mode)?;
        Ok(metadata)
    }
}

/// Reads one entry of a `map<string, string>`. Lengths are checked before anything is copied. An entry with
/// anything in it but key and value is an unknown field, as it is to the reference peer.
pub(crate) fn read_entry(
    mut entry: Reader<'_>,
    field: u32,
    extra: &mut BTreeMap<String, String>,
    limits: &Limits,
) -> Result<(), DecodeError> {
    let (mut key, mut value) = ("", "");
    let mut known = true;
    while let Some(part) = entry.next_field()? {
        match (part.number, part.value) {
            (1, Value::Bytes(bytes)) => key = utf8(field, bytes)?,
            (2, Value::Bytes(bytes)) => value = utf8(field, bytes)?,
            _ => known = false,
        }
    }
    if !known {
        return Ok(());
    }
    if key.len() > limits.max_extra_key_len {
        return Err(DecodeError::ExtraKeyTooLong { len: key.len(), max: limits.max_extra_key_len });
    }
    if value.len() > limits.max_extra_value_len {
        return Err(DecodeError::ExtraValueTooLong { len: value.len(), max: limits.max_extra_value_len });
    }
    extra.insert(key.to_owned(), value.to_owned());
    if extra.len() > limits.max_extra_entries {
        return Err(DecodeError::TooManyExtra { max: limits.max_extra_entries });
    }
    Ok(())
}

fn push_dim(shape: &mut Vec<u32>, dim: u64, limits: &Limits) -> Result<(), DecodeError> {
    if shape.len() >= limits.max_rank {
        return Err(DecodeError::RankTooHigh { max: limits.max_rank });
    }
    shape.push(low_u32(dim));
    Ok(())
}

fn utf8(field: u32, bytes: &[u8]) -> Result<&str, DecodeError> {
    core::str::from_utf8(bytes).map_err(|_| DecodeError::InvalidUtf8 { field })
}

pub(crate) fn text(field: u32, bytes: &[u8]) -> Result<String, DecodeError> {
    utf8(field, bytes).map(str::to_owned)
}

/// What protobuf does with a varint longer than its field: the low 32 bits stay.
fn low_u32(varint: u64) -> u32 {
    let [a, b, c, d, ..] = varint.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn low_i32(varint: u64) -> i32 {
    low_u32(varint).cast_signed()
}
