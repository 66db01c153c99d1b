//! zstd payloads: one frame, its content size stated, nothing after it (docs/spec/frame.md, section 5).

#[cfg(not(feature = "zstd"))]
mod absent;
#[cfg(feature = "zstd")]
mod libzstd;
#[cfg(feature = "zstd")]
mod zstd_header;

#[cfg(not(feature = "zstd"))]
pub(crate) use absent::{Compressed, compress};
#[cfg(feature = "zstd")]
pub(crate) use libzstd::{Compressed, compress};

/// How hard zstd tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Compression {
    /// Level 1.
    Fast,
    /// Level 3.
    #[default]
    Balanced,
    /// Level 19.
    Max,
}

impl Compression {
    /// The name in the metadata's compression field.
    pub const NAME: &'static str = "zstd";

    /// The zstd level.
    #[must_use]
    pub const fn level(self) -> i32 {
        match self {
            Self::Fast => 1,
            Self::Balanced => 3,
            Self::Max => 19,
        }
    }
}
