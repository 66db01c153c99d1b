//! KV-cache payload: a 17-byte header, then K and V of each layer (docs/spec/kv.md).

mod error;
mod header;
mod payload;

pub use error::KvError;
pub use header::KvHeader;
pub use payload::KvPayload;

/// Element type of a KV cache (`dtype` byte of the KV header).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
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

    /// The byte in the KV header.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Bf16 => 2,
        }
    }

    /// The type of a KV header's byte.
    ///
    /// # Errors
    /// `UnknownDtype`: other bytes are never taken for float16.
    pub const fn from_byte(byte: u8) -> Result<Self, KvError> {
        match byte {
            0 => Ok(Self::F32),
            1 => Ok(Self::F16),
            2 => Ok(Self::Bf16),
            _ => Err(KvError::UnknownDtype(byte)),
        }
    }
}

impl From<KvDtype> for crate::DType {
    fn from(dtype: KvDtype) -> Self {
        match dtype {
            KvDtype::F32 => Self::Float32,
            KvDtype::F16 => Self::Float16,
            KvDtype::Bf16 => Self::BFloat16,
        }
    }
}
