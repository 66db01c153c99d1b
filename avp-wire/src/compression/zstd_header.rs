//! The header of a zstd frame (RFC 8878, section 3.1.1.1), read before libzstd sees the frame: one-shot
//! decompression does not hold the window against a limit.

use crate::error::DecodeError;

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What a zstd frame says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ZstdHeader {
    /// Bytes of content, where stated.
    pub(crate) content_size: Option<u64>,
    /// Bytes of history that a decoder must keep.
    pub(crate) window_size: u64,
}

impl ZstdHeader {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let invalid = DecodeError::InvalidCompression;
        let (magic, rest) = bytes.split_first_chunk().ok_or(invalid("no zstd frame header"))?;
        if *magic != MAGIC {
            return Err(invalid("no zstd frame header"));
        }
        let cut = invalid("zstd frame header is cut short");
        let (&descriptor, rest) = rest.split_first().ok_or(cut.clone())?;
        if descriptor & 0x08 != 0 {
            return Err(invalid("reserved bit of the zstd frame header is set"));
        }
        let single_segment = descriptor & 0x20 != 0;
        let (window, rest) = if single_segment {
            (None, rest)
        } else {
            let (&byte, rest) = rest.split_first().ok_or(cut.clone())?;
            (Some(window_size(byte)), rest)
        };
        let dictionary_len = match descriptor & 0x03 {
            0 => 0,
            1 => 1,
            2 => 2,
            _ => 4,
        };
        let (_, rest) = rest.split_at_checked(dictionary_len).ok_or(cut.clone())?;
        let content_size = match (descriptor >> 6, single_segment) {
            (0, false) => None,
            (0, true) => Some(le_number::<1>(rest).ok_or(cut)?),
            (1, _) => Some(le_number::<2>(rest).ok_or(cut)? + 256),
            (2, _) => Some(le_number::<4>(rest).ok_or(cut)?),
            _ => Some(le_number::<8>(rest).ok_or(cut)?),
        };
        let window_size = window.or(content_size).unwrap_or(u64::MAX);
        Ok(Self { content_size, window_size })
    }
}

fn window_size(byte: u8) -> u64 {
    let base = 1_u64 << (10 + (byte >> 3));
    base + base / 8 * u64::from(byte & 7)
}

fn le_number<const N: usize>(bytes: &[u8]) -> Option<u64> {
    let head: &[u8; N] = bytes.first_chunk()?;
    Some(head.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_agrees_with_libzstd_at_every_size_and_level() {
        for size in [0, 1, 255, 256, 65_791, 65_792, 300_000] {
            for level in [1, 3, 19] {
                let frame = zstd::bulk::compress(&vec![7; size], level).unwrap();
                let header = ZstdHeader::read(&frame).unwrap();
                assert_eq!(header.content_size, Some(size as u64));
                assert!(header.window_size <= 1 << 23);
                let in_header: Vec<_> =
                    (0..frame.len().min(5)).map(|n| ZstdHeader::read(&frame[..n])).collect();
                assert!(in_header.iter().all(Result::is_err));
            }
        }
    }

    #[test]
    fn the_window_descriptor_is_exponent_and_eighths() {
        assert_eq!(window_size(0), 1 << 10);
        assert_eq!(window_size(13 << 3), 1 << 23);
        assert_eq!(window_size(13 << 3 | 1), (1 << 23) + (1 << 20));
    }
}
