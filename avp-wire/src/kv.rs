//! KV-cache payload: a 17-byte header, then K and V of each layer.

/// Element type of a KV cache (`dtype` byte of the KV header).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// IEEE single precision, byte 0.
    F32,
    /// IEEE half precision, byte 1.
    F16,
    /// bfloat16, byte 2.
    Bf16,
}

impl KvDtype {
    /// Bytes per element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}
