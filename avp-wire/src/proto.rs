//! A reader of protobuf fields over a slice, with the reference peer's answer to odd spellings: keys and lengths
//! take at most 5 bytes, values at most 10, of which bits beyond 64 are dropped. prost's reader differs there.

use crate::error::DecodeError;

/// Keys and lengths are 32-bit varints.
const MAX_KEY_LEN: usize = 5;
const MAX_VARINT_LEN: usize = 10;
/// Groups within groups that are skipped before a message counts as malformed. A map entry counts as one.
const MAX_DEPTH: usize = 100;

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
    end: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, end: bytes.len(), depth: 0 }
    }

    /// A reader of a nested message or of packed numbers that was read last, whose errors give offsets in the
    /// outer one.
    pub(crate) fn nested(&self, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, end: self.offset(), depth: self.depth.saturating_add(1) }
    }

    /// The next field, or `None` at the end.
    pub(crate) fn next_field(&mut self) -> Result<Option<Field<'a>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let malformed = DecodeError::MalformedMetadata { offset: self.offset() };
        let field = self.field(self.depth).filter(|field| field.number != 0);
        field.map(Some).ok_or(malformed)
    }

    /// The next number of a packed run, or `None` at the end.
    pub(crate) fn next_varint(&mut self) -> Result<Option<u64>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let malformed = DecodeError::MalformedMetadata { offset: self.offset() };
        self.varint(MAX_VARINT_LEN).map(Some).ok_or(malformed)
    }

    fn field(&mut self, depth: usize) -> Option<Field<'a>> {
        let key = self.key()?;
        let number = key >> 3;
        let value = match key & 7 {
            0 => Value::Varint(self.varint(MAX_VARINT_LEN)?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = u32::try_from(self.varint(MAX_KEY_LEN)?).ok()?;
                Value::Bytes(self.take(usize::try_from(len).ok()?)?)
            }
            3 => self.skip_group(number, depth.checked_add(1)?)?,
            5 => self.take(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some(Field { number, value })
    }

    /// Skips fields up to the end of group `number`.
    fn skip_group(&mut self, number: u32, depth: usize) -> Option<Value<'a>> {
        if depth > MAX_DEPTH {
            return None;
        }
        loop {
            let before = self.rest;
            let key = self.key()?;
            if key & 7 == 4 {
                return (key >> 3 == number).then_some(Value::Other);
            }
            self.rest = before;
            self.field(depth)?;
        }
    }

    fn key(&mut self) -> Option<u32> {
        u32::try_from(self.varint(MAX_KEY_LEN)?).ok()
    }

    fn varint(&mut self, max_len: usize) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..).step_by(7).take(max_len) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(bytes)
    }

    fn offset(&self) -> usize {
        self.end.saturating_sub(self.rest.len())
    }
}
