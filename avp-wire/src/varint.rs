//! Numbers of varying length, and reading what holds them.

use alloc::vec::Vec;

/// Most bytes of a u32, 7 bits each.
pub(crate) const MAX_VARINT_LEN: usize = 5;

pub(crate) fn write_varint(value: u32, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(u64::from(value), out);
}

/// What is not read yet of a payload.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// Bytes that are not read yet.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// The next bytes; `None` where the payload ends within.
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    /// The next u32, or the error that is told where the payload ends within, or where it is too large or written in more
    /// bytes than it needs: what is read has one spelling.
    pub(crate) fn varint<E>(&mut self, truncated: E, invalid: E) -> Result<u32, E> {
        let mut value = 0_u64;
        for i in 0..MAX_VARINT_LEN {
            let Some((byte, rest)) = self.rest.split_first() else { return Err(truncated) };
            self.rest = rest;
            value |= u64::from(byte & 0x7F) << (7 * i);
            if byte & 0x80 == 0 {
                let shortest = *byte != 0 || i == 0;
                return u32::try_from(value).ok().filter(|_| shortest).ok_or(invalid);
            }
        }
        Err(invalid)
    }
}
