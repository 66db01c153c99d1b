//! The 17 bytes that describe a KV cache.

use core::ops::Range;

use super::{KvDtype, KvError};

/// Shape and type of a KV cache, as the first 17 bytes of its payload say.
///
/// ```
/// use avp_wire::{KvDtype, KvHeader};
///
/// let header = KvHeader { num_layers: 2, num_kv_heads: 4, head_dim: 64, seq_len: 10, dtype: KvDtype::Bf16 };
/// assert_eq!(header.plane_len(), Ok(4 * 10 * 64 * 2));
/// assert_eq!(header.payload_len(), Ok(17 + 2 * 2 * 4 * 10 * 64 * 2));
/// assert_eq!(KvHeader::decode(&header.encode()), Ok(header));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct KvHeader {
    /// Layers.
    pub num_layers: u32,
    /// Key and value heads per layer.
    pub num_kv_heads: u32,
    /// Elements per head.
    pub head_dim: u32,
    /// Tokens.
    pub seq_len: u32,
    /// Element type.
    pub dtype: KvDtype,
}

impl KvHeader {
    /// Bytes on the wire; tensor data starts there.
    pub const SIZE: usize = 17;

    /// Reads a header from the start of `bytes`. The counts are not yet held against anything:
    /// [`KvPayload::parse`](super::KvPayload::parse) does that.
    ///
    /// # Errors
    /// `Truncated`, `UnknownDtype`.
    pub fn decode(bytes: &[u8]) -> Result<Self, KvError> {
        let Some((head, _)) = bytes.split_first_chunk::<{ Self::SIZE }>() else {
            return Err(KvError::Truncated { got: bytes.len() });
        };
        let &[a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, dtype] = head;
        Ok(Self {
            num_layers: u32::from_le_bytes([a0, a1, a2, a3]),
            num_kv_heads: u32::from_le_bytes([b0, b1, b2, b3]),
            head_dim: u32::from_le_bytes([c0, c1, c2, c3]),
            seq_len: u32::from_le_bytes([d0, d1, d2, d3]),
            dtype: KvDtype::from_byte(dtype)?,
        })
    }

    /// The 17 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let [a0, a1, a2, a3] = self.num_layers.to_le_bytes();
        let [b0, b1, b2, b3] = self.num_kv_heads.to_le_bytes();
        let [c0, c1, c2, c3] = self.head_dim.to_le_bytes();
        let [d0, d1, d2, d3] = self.seq_len.to_le_bytes();
        [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3, self.dtype.byte()]
    }

    /// Writes the header to the start of `payload` and gives back the rest, for the planes to be written
    /// in place: [`k_range`](Self::k_range) and [`v_range`](Self::v_range) say where, counted from the start
    /// of the payload.
    ///
    /// # Errors
    /// `Truncated` if `payload` is shorter than the header.
    pub fn write_to<'a>(&self, payload: &'a mut [u8]) -> Result<&'a mut [u8], KvError> {
        let got = payload.len();
        let (head, rest) =
            payload.split_first_chunk_mut::<{ Self::SIZE }>().ok_or(KvError::Truncated { got })?;
        *head = self.encode();
        Ok(rest)
    }

    /// No count may be zero: the bytes would not bound the others.
    pub(crate) fn check_counts(&self) -> Result<(), KvError> {
        let &Self { num_layers: layers, num_kv_heads: kv_heads, head_dim, seq_len: tokens, .. } = self;
        if [layers, kv_heads, head_dim, tokens].contains(&0) {
            return Err(KvError::ZeroDimension { layers, kv_heads, tokens, head_dim });
        }
        Ok(())
    }

    /// Bytes of one K or one V of one layer, `[num_kv_heads, seq_len, head_dim]`.
    ///
    /// # Errors
    /// `Overflow`.
    pub fn plane_len(&self) -> Result<usize, KvError> {
        let counts = [self.num_kv_heads, self.seq_len, self.head_dim];
        if self.num_layers == 0 || counts.contains(&0) {
            return Ok(0);
        }
        counts
            .into_iter()
            .try_fold(self.dtype.size(), |len, count| len.checked_mul(usize::try_from(count).ok()?))
            .ok_or(KvError::Overflow)
    }

    /// Bytes of the whole payload: header and planes.
    ///
    /// # Errors
    /// `Overflow`.
    pub fn payload_len(&self) -> Result<usize, KvError> {
        let planes = usize::try_from(self.num_layers).ok().and_then(|layers| layers.checked_mul(2));
        let len = planes.and_then(|planes| planes.checked_mul(self.plane_len().ok()?));
        len.and_then(|len| len.checked_add(Self::SIZE)).ok_or(KvError::Overflow)
    }

    /// Where in the payload K of `layer` is; `None` if there is no such layer.
    #[must_use]
    pub fn k_range(&self, layer: u32) -> Option<Range<usize>> {
        self.plane_range(layer, 0)
    }

    /// Where in the payload V of `layer` is; `None` if there is no such layer.
    #[must_use]
    pub fn v_range(&self, layer: u32) -> Option<Range<usize>> {
        self.plane_range(layer, 1)
    }

    fn plane_range(&self, layer: u32, which: usize) -> Option<Range<usize>> {
        if layer >= self.num_layers {
            return None;
        }
        let len = self.plane_len().ok()?;
        let plane = usize::try_from(layer).ok()?.checked_mul(2)?.checked_add(which)?;
        let start = plane.checked_mul(len)?.checked_add(Self::SIZE)?;
        Some(start..start.checked_add(len)?)
    }
}
