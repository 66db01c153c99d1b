//! A KV cache in canonical form, checked, over the bytes it came in.

use bytes::Bytes;

use super::{KvError, KvHeader};
use crate::header::len_u64;

/// A KV payload whose header agrees with its bytes. Cloning and slicing copy nothing.
///
/// Planes are little-endian `[num_kv_heads, seq_len, head_dim]`; K is after RoPE, in rotate-half order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvPayload {
    header: KvHeader,
    bytes: Bytes,
}

impl KvPayload {
    /// Checks every count against the bytes that are there; allocates nothing.
    ///
    /// # Errors
    /// `Truncated`, `UnknownDtype`, `ZeroDimension`, `Overflow`, `SizeMismatch`.
    pub fn parse(bytes: Bytes) -> Result<Self, KvError> {
        let header = KvHeader::decode(&bytes)?;
        header.check_counts()?;
        let expected = header.payload_len()?;
        if expected != bytes.len() {
            let expected = u64::try_from(expected).unwrap_or(u64::MAX);
            return Err(KvError::SizeMismatch { expected, got: len_u64(&bytes) });
        }
        Ok(Self { header, bytes })
    }

    /// Shape and type.
    #[must_use]
    pub fn header(&self) -> &KvHeader {
        &self.header
    }

    /// K of `layer`, `[num_kv_heads, seq_len, head_dim]`; `None` if there is no such layer.
    #[must_use]
    pub fn k(&self, layer: u32) -> Option<&[u8]> {
        self.bytes.get(self.header.k_range(layer)?)
    }

    /// V of `layer`, `[num_kv_heads, seq_len, head_dim]`; `None` if there is no such layer.
    #[must_use]
    pub fn v(&self, layer: u32) -> Option<&[u8]> {
        self.bytes.get(self.header.v_range(layer)?)
    }

    /// K of `layer` as a view that keeps the payload's buffer alive.
    #[must_use]
    pub fn k_bytes(&self, layer: u32) -> Option<Bytes> {
        self.header.k_range(layer).map(|range| self.bytes.slice(range))
    }

    /// V of `layer` as a view that keeps the payload's buffer alive.
    #[must_use]
    pub fn v_bytes(&self, layer: u32) -> Option<Bytes> {
        self.header.v_range(layer).map(|range| self.bytes.slice(range))
    }

    /// All planes, `[num_layers][K, V][num_kv_heads, seq_len, head_dim]`.
    #[must_use]
    pub fn planes(&self) -> &[u8] {
        self.bytes.get(KvHeader::SIZE..).unwrap_or_default()
    }

    /// All planes as a view that keeps the payload's buffer alive.
    #[must_use]
    pub fn planes_bytes(&self) -> Bytes {
        self.bytes.slice(KvHeader::SIZE.min(self.bytes.len())..)
    }

    /// Header and planes, as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Header and planes, as they travel.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvDtype;

    fn header(num_layers: u32, num_kv_heads: u32, seq_len: u32, head_dim: u32) -> KvHeader {
        KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype: KvDtype::F32 }
    }

    fn parse(header: KvHeader, planes: usize) -> Result<KvPayload, KvError> {
        KvPayload::parse([&header.encode()[..], &vec![0; planes]].concat().into())
    }

    // spec: kv 1.2
    #[test]
    fn planes_follow_one_another_and_fill_the_payload() {
        let header = header(3, 2, 5, 4);
        let mut end = KvHeader::SIZE;
        for layer in 0..3 {
            for range in [header.k_range(layer).unwrap(), header.v_range(layer).unwrap()] {
                assert_eq!(range.start, end);
                end = range.end;
            }
        }
        assert_eq!(header.payload_len(), Ok(end));
        assert_eq!((header.k_range(3), header.v_range(u32::MAX)), (None, None));
    }

    // spec: kv 2.3
    #[test]
    fn counts_that_no_byte_bounds_are_rejected() {
        for (layers, heads, tokens, dim) in
            [(0, 1, 1, 1), (150_000, 0, 1, 1), (u32::MAX, 1, 0, 1), (1, 1, 1, 0)]
        {
            let error = parse(header(layers, heads, tokens, dim), 0).unwrap_err();
            assert!(matches!(error, KvError::ZeroDimension { .. }), "{error}");
        }
    }

    // spec: kv 2.1, kv 2.2
    #[test]
    fn counts_beyond_the_bytes_are_rejected_without_overflow() {
        assert_eq!(parse(header(u32::MAX, u32::MAX, u32::MAX, u32::MAX), 8), Err(KvError::Overflow));
        assert_eq!(parse(header(1, 1, 1, 1), 7), Err(KvError::SizeMismatch { expected: 25, got: 24 }));
        assert_eq!(parse(header(1, 1, 1, 1), 9), Err(KvError::SizeMismatch { expected: 25, got: 26 }));
    }

    // spec: kv 1.3
    #[test]
    fn unknown_dtypes_are_never_taken_for_another() {
        for byte in 3..=u8::MAX {
            let mut bytes = header(1, 1, 1, 1).encode();
            bytes[16] = byte;
            assert_eq!(KvHeader::decode(&bytes), Err(KvError::UnknownDtype(byte)));
        }
    }

    #[test]
    fn a_header_is_not_written_to_a_buffer_too_short_for_it() {
        assert_eq!(header(1, 1, 1, 1).write_to(&mut [0; 16]), Err(KvError::Truncated { got: 16 }));
    }
}
