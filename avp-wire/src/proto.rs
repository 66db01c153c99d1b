//! A reader of protobuf fields over a slice, on prost's primitives.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::error::DecodeError;

/// One field: its number and what it holds.
pub(crate) struct Field<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
}

/// What a field holds, by wire type.
pub(crate) enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 2: a string, a message or packed numbers.
    Bytes(&'a [u8]),
    /// Fixed-width numbers and groups, which this protocol does not use: already skipped.
    Other,
}

/// Walks the fields of one message.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, total: bytes.len() }
    }

    /// A reader of a nested message or of packed numbers, whose errors give offsets in the outer one.
    pub(crate) fn nested(&self, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, total: self.total.saturating_sub(self.rest.len()) }
    }

    /// The next field, or `None` at the end.
    pub(crate) fn next_field(&mut self) -> Result<Option<Field<'a>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let start = self.offset();
        let malformed = |_| DecodeError::MalformedMetadata { offset: start };
        let (number, wire_type) = decode_key(&mut self.rest).map_err(malformed)?;
        let value = match wire_type {
            WireType::Varint => Value::Varint(decode_varint(&mut self.rest).map_err(malformed)?),
            WireType::LengthDelimited => Value::Bytes(self.take_delimited(start)?),
            _ => {
                skip_field(wire_type, number, &mut self.rest, DecodeContext::default()).map_err(malformed)?;
                Value::Other
            }
        };
        Ok(Some(Field { number, value }))
    }

    /// The next number of a packed run, or `None` at the end.
    pub(crate) fn next_varint(&mut self) -> Result<Option<u64>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let offset = self.offset();
        decode_varint(&mut self.rest).map(Some).map_err(|_| DecodeError::MalformedMetadata { offset })
    }

    fn take_delimited(&mut self, offset: usize) -> Result<&'a [u8], DecodeError> {
        let malformed = DecodeError::MalformedMetadata { offset };
        let len = decode_varint(&mut self.rest).map_err(|_| malformed.clone())?;
        let len = usize::try_from(len).map_err(|_| malformed.clone())?;
        let (bytes, _) = self.rest.split_at_checked(len).ok_or(malformed)?;
        self.rest.advance(len);
        Ok(bytes)
    }

    fn offset(&self) -> usize {
        self.total.saturating_sub(self.rest.len())
    }
}
