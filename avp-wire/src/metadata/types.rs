//! The enumerations of the metadata (docs/spec/frame.md, section 3).

use crate::error::DecodeError;

/// What the payload holds (field 7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "SCREAMING_SNAKE_CASE")
)]
pub enum PayloadType {
    /// Hidden states `[n, hidden_dim]`, or text in JSON mode.
    #[default]
    HiddenState,
    /// A KV cache: see [`KvPayload`](crate::KvPayload).
    KvCache,
}

/// Element type of the payload (field 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "UPPERCASE"))]
pub enum DType {
    /// IEEE single precision.
    #[default]
    Float32,
    /// IEEE half precision.
    Float16,
    /// bfloat16.
    BFloat16,
    /// Signed bytes.
    Int8,
}

/// How the agents communicate (field 10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Mode {
    /// Tensors.
    #[default]
    #[cfg_attr(feature = "serde", serde(rename = "LATENT"))]
    Latent,
    /// JSON text.
    #[cfg_attr(feature = "serde", serde(rename = "JSON_MODE"))]
    Json,
}

impl PayloadType {
    /// The value on the wire.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::HiddenState => 0,
            Self::KvCache => 1,
        }
    }

    /// The type of a value from the wire.
    ///
    /// # Errors
    /// `UnknownPayloadType`.
    pub const fn from_number(number: i32) -> Result<Self, DecodeError> {
        match number {
            0 => Ok(Self::HiddenState),
            1 => Ok(Self::KvCache),
            _ => Err(DecodeError::UnknownPayloadType(number)),
        }
    }
}

impl DType {
    /// The value on the wire.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Float32 => 0,
            Self::Float16 => 1,
            Self::BFloat16 => 2,
            Self::Int8 => 3,
        }
    }

    /// The type of a value from the wire. 4 and 5 are reserved for FLOAT8 and INT4.
    ///
    /// # Errors
    /// `UnknownDtype`.
    pub const fn from_number(number: i32) -> Result<Self, DecodeError> {
        match number {
            0 => Ok(Self::Float32),
            1 => Ok(Self::Float16),
            2 => Ok(Self::BFloat16),
            3 => Ok(Self::Int8),
            _ => Err(DecodeError::UnknownDtype(number)),
        }
    }

    /// Bytes per element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Float16 | Self::BFloat16 => 2,
            Self::Int8 => 1,
        }
    }
}

impl Mode {
    /// The value on the wire.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Latent => 0,
            Self::Json => 1,
        }
    }

    /// The mode of a value from the wire.
    ///
    /// # Errors
    /// `UnknownMode`.
    pub const fn from_number(number: i32) -> Result<Self, DecodeError> {
        match number {
            0 => Ok(Self::Latent),
            1 => Ok(Self::Json),
            _ => Err(DecodeError::UnknownMode(number)),
        }
    }
}
