//! Characters that come byte by byte.

/// The bytes of a character that is not whole yet; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Partial {
    value: u32,
    /// Bytes that are missing.
    missing: u32,
    /// First character that needs as many bytes.
    least: u32,
}

/// What a further byte makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Utf8 {
    /// A character is whole.
    Char(char),
    /// It begins or goes on, and becomes one of the characters between two.
    Partial(Partial, u32, u32),
    /// It becomes none.
    Invalid,
}

impl Partial {
    pub(super) fn is_none(self) -> bool {
        self.missing == 0
    }

    pub(super) fn push(self, byte: u8) -> Utf8 {
        let value = u32::from(byte);
        let begun = |value, missing, least| Self { value, missing, least };
        let next = match (self.missing, byte) {
            (0, 0..0x80) => return Utf8::Char(char::from(byte)),
            (0, 0xC2..0xE0) => begun(value & 0x1F, 1, 0x80),
            (0, 0xE0..0xF0) => begun(value & 0x0F, 2, 0x800),
            (0, 0xF0..0xF5) => begun(value & 0x07, 3, 0x1_0000),
            (1.., 0x80..0xC0) => begun(self.value << 6 | value & 0x3F, self.missing - 1, self.least),
            _ => return Utf8::Invalid,
        };
        let unknown = (1 << (6 * next.missing)) - 1;
        let first = next.value << (6 * next.missing);
        let (low, high) = (first.max(next.least), (first | unknown).min(char::MAX.into()));
        match next.missing {
            _ if low > high || (low >= 0xD800 && high <= 0xDFFF) => Utf8::Invalid,
            0 => char::from_u32(next.value).map_or(Utf8::Invalid, Utf8::Char),
            _ => Utf8::Partial(next, low, high),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_exactly_as_the_standard_library_takes_them() {
        // Every start of up to three bytes, and some of four.
        let thirds = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF];
        for first in 0..=255_u8 {
            for second in 0..=255_u8 {
                for third in thirds {
                    for fourth in thirds {
                        let bytes = [first, second, third, fourth];
                        let expected = match std::str::from_utf8(&bytes) {
                            Ok(text) => text.chars().next(),
                            Err(e) => std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap().chars().next(),
                        };
                        assert_eq!(first_char(&bytes), expected, "{bytes:x?}");
                    }
                }
            }
        }
    }

    fn first_char(bytes: &[u8]) -> Option<char> {
        let mut partial = Partial::default();
        for byte in bytes {
            match partial.push(*byte) {
                Utf8::Char(c) => return Some(c),
                Utf8::Partial(next, low, high) => {
                    assert!(low <= high && !next.is_none());
                    partial = next;
                }
                Utf8::Invalid => return None,
            }
        }
        None
    }
}
