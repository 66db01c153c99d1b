//! What a KV payload can be wrong about.

use crate::code::{ErrorCode, Fault};

/// Why bytes are not a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// Fewer bytes than the header.
    #[error("KV header needs 17 bytes, {got} there")]
    Truncated {
        /// Bytes that are there.
        got: usize,
    },
    /// The dtype byte is not 0, 1 or 2.
    #[error("KV dtype byte {0} is not known")]
    UnknownDtype(
        /// The byte.
        u8,
    ),
    /// A count is zero, so that the bytes cannot bound the others.
    #[error(
        "KV header has a zero count ({layers} layers, {kv_heads} heads, {tokens} tokens, width {head_dim})"
    )]
    ZeroDimension {
        /// `num_layers`.
        layers: u32,
        /// `num_kv_heads`.
        kv_heads: u32,
        /// `seq_len`.
        tokens: u32,
        /// `head_dim`.
        head_dim: u32,
    },
    /// The header announces another length than the payload has.
    #[error("KV header announces {expected} bytes, the payload has {got}")]
    SizeMismatch {
        /// Bytes of header and planes.
        expected: u64,
        /// Bytes of the payload.
        got: u64,
    },
    /// The counts exceed what can be addressed.
    #[error("KV header describes more bytes than can be addressed")]
    Overflow,
    /// The frame's payload is not a KV cache.
    #[error("the frame holds hidden states or text, not a KV cache")]
    NotKvCache,
}

impl KvError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated { .. } => ErrorCode::KvTruncated,
            Self::UnknownDtype(_) => ErrorCode::KvUnknownDtype,
            Self::ZeroDimension { .. } => ErrorCode::KvZeroDimension,
            Self::SizeMismatch { .. } => ErrorCode::KvSizeMismatch,
            Self::Overflow => ErrorCode::KvOverflow,
            Self::NotKvCache => ErrorCode::NotKvCache,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.code().fault()
    }
}
