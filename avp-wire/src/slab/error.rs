//! What a transfer in slabs can be wrong about.

use crate::code::{ErrorCode, Fault};
use crate::ext::{ExtError, SlabId};
use crate::kv::{KvError, KvHeader};

/// Why a manifest or a slab is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlabError {
    /// The frame is not of `avp.kind` `manifest`, names no transfer, or is a tensor, a KV cache or text.
    #[error("the frame is no manifest")]
    NotManifest,
    /// The manifest's payload is neither 25 nor 57 bytes long.
    #[error("a manifest has 25 bytes, or 57 with a digest; this one has {got}")]
    ManifestLength {
        /// Bytes of payload.
        got: usize,
    },
    /// A count of the cache or of the grid is zero.
    #[error("a count of the manifest is zero")]
    ZeroCount,
    /// The grid has more slabs than this side takes.
    #[error("the transfer has {count} slabs, the limit is {max}")]
    TooManySlabs {
        /// Slabs of the grid.
        count: u64,
        /// `Limits::max_slabs`.
        max: u32,
    },
    /// The frame is not of `avp.kind` `slab`, or has no `avp.slab`.
    #[error("the frame is no slab of a transfer")]
    NotSlab,
    /// The slab belongs to another transfer.
    #[error("the slab belongs to another transfer")]
    OtherTransfer,
    /// The slab is not a cell of the manifest's grid.
    #[error("slab {0} is not one of those that the manifest cuts")]
    OffGrid(
        /// What `avp.slab` says.
        SlabId,
    ),
    /// The slab's KV header is not what the manifest makes it.
    #[error("slab {id} has the KV header {got:?}, the manifest says {expected:?}")]
    Header {
        /// The slab.
        id: SlabId,
        /// What the manifest says.
        expected: KvHeader,
        /// What came.
        got: KvHeader,
    },
    /// The slab came before, with other bytes.
    #[error("slab {0} came twice with different bytes")]
    Contradiction(
        /// The slab.
        SlabId,
    ),
    /// The slab's digest is not that of its bytes.
    #[error("slab {0} does not have the digest that it announces: it is damaged")]
    DigestMismatch(
        /// The slab.
        SlabId,
    ),
    /// The transfer's digest is not the one that the manifest states.
    #[error("the slabs do not have the digest that the manifest states")]
    TransferDigestMismatch,
    /// The transfer ends and slabs are missing.
    #[error("{count} slabs are missing, the first is number {first}")]
    Missing {
        /// How many.
        count: u32,
        /// Lowest index.
        first: u32,
    },
    /// The frame is not of `avp.kind` `ack`.
    #[error("the frame is no answer to a transfer")]
    NotAck,
    /// The gaps of an ack are not runs of the grid, ascending and apart.
    #[error("the gaps that the receiver states are none of this transfer")]
    Gaps,
    /// The transfer was begun with another manifest.
    #[error("the transfer was begun with another manifest; another cache needs another transfer id")]
    OtherManifest,
    /// The slab is coded.
    #[error("the slab is in a KV codec that is not known here")]
    UnknownCodec,
    /// A buffer has another length than its header says.
    #[error("the buffer has {got} bytes, its KV header says {expected}")]
    BufferLength {
        /// Bytes of header and planes.
        expected: usize,
        /// Bytes of the buffer.
        got: usize,
    },
    /// A KV header or payload is wrong.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// `avp.slab` or `avp.blake3` has a value that its syntax forbids.
    #[error(transparent)]
    Extension(#[from] ExtError),
}

impl SlabError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotManifest | Self::ManifestLength { .. } | Self::ZeroCount => ErrorCode::InvalidManifest,
            Self::TooManySlabs { .. } => ErrorCode::TooManySlabs,
            Self::NotSlab
            | Self::NotAck
            | Self::Gaps
            | Self::OtherManifest
            | Self::OtherTransfer
            | Self::OffGrid(_)
            | Self::Header { .. }
            | Self::Contradiction(_) => ErrorCode::SlabMismatch,
            Self::DigestMismatch(_) | Self::TransferDigestMismatch => ErrorCode::DigestMismatch,
            Self::Missing { .. } => ErrorCode::SlabsMissing,
            Self::UnknownCodec => ErrorCode::UnknownCodec,
            Self::BufferLength { .. } => ErrorCode::InvalidArgument,
            Self::Kv(error) => error.code(),
            Self::Extension(error) => error.code(),
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.code().fault()
    }
}
