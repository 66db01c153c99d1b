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
        let KvHeader { num_layers: layers, num_kv_heads: kv_heads, head_dim, seq_len: tokens, .. } = header;
        if [layers, kv_heads, head_dim, tokens].contains(&0) {
            return Err(KvError::ZeroDimension { layers, kv_heads, tokens, head_dim });
        }
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
