//! What decoding and encoding a frame can say.

use crate::code::{ErrorCode, Fault};
use crate::kv::KvError;

/// Why bytes are not a frame that this side takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than announced.
    #[error("frame truncated: {needed} bytes needed, {got} there")]
    Truncated {
        /// Bytes that the frame announces up to the part that is missing.
        needed: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// The first two bytes are not `41 56`.
    #[error("not an AVP frame: it starts with {:02x} {:02x} instead of 41 56", .0[0], .0[1])]
    BadMagic(
        /// What the bytes start with.
        [u8; 2],
    ),
    /// The version byte is not 1.
    #[error("frame version {0} is not supported, only version 1 is")]
    UnsupportedVersion(
        /// The version byte.
        u8,
    ),
    /// Reserved flag bits are set.
    #[error("reserved flag bits are set in {0:#04x}")]
    ReservedFlags(
        /// The flags byte.
        u8,
    ),
    /// `metadata_length` exceeds `payload_length`.
    #[error("metadata of {metadata} bytes does not fit the frame's {payload} bytes")]
    MetadataBeyondPayload {
        /// `metadata_length`.
        metadata: u32,
        /// `payload_length`.
        payload: u32,
    },
    /// Bytes follow the frame.
    #[error("{0} bytes follow the frame")]
    TrailingBytes(
        /// How many.
        u64,
    ),
    /// The COMPRESSED flag and the compression field disagree.
    #[error("the COMPRESSED flag is {flag}, the compression field says otherwise")]
    CompressedFlagMismatch {
        /// Whether the flag is set.
        flag: bool,
    },
    /// The HAS_MAP flag and `avp_map_id` disagree.
    #[error("the HAS_MAP flag is {flag}, avp_map_id says otherwise")]
    MapFlagMismatch {
        /// Whether the flag is set.
        flag: bool,
    },
    /// The KV_CACHE flag and `payload_type` disagree.
    #[error("the KV_CACHE flag is {flag}, payload_type says otherwise")]
    KvFlagMismatch {
        /// Whether the flag is set.
        flag: bool,
    },
    /// The payload's CRC-32 is not what the metadata says.
    #[error("payload checksum is {got:#010x}, the metadata says {expected:#010x}: the frame is damaged")]
    ChecksumMismatch {
        /// `payload_checksum`.
        expected: u32,
        /// CRC-32 of the payload that came.
        got: u32,
    },
    /// The payload's length is not what shape and dtype, or the KV header, say.
    #[error("payload has {got} bytes, its shape or KV header says {expected}")]
    PayloadSizeMismatch {
        /// Bytes that the description gives.
        expected: u64,
        /// Bytes that are there, or that the zstd frame announces.
        got: u64,
    },
    /// The product of `tensor_shape` exceeds 64 bits.
    #[error("tensor_shape describes more bytes than 64 bits can count")]
    ShapeOverflow,
    /// `payload_length` exceeds the limit.
    #[error("frame of {len} bytes exceeds the limit of {max}")]
    FrameTooLarge {
        /// `payload_length`.
        len: u32,
        /// `Limits::max_frame_len`.
        max: u32,
    },
    /// The payload does not fit the memory budget.
    #[error("payload of {needed} bytes exceeds the memory budget of {budget}")]
    MemoryBudget {
        /// Bytes that the payload takes.
        needed: u64,
        /// `Limits::memory_budget`, or less where memory has run out.
        budget: u64,
    },
    /// `metadata_length` exceeds the limit.
    #[error("metadata of {len} bytes exceeds the limit of {max}")]
    MetadataTooLarge {
        /// `metadata_length`.
        len: u32,
        /// `Limits::max_metadata_len`.
        max: u32,
    },
    /// The metadata is not valid protobuf.
    #[error("metadata is not valid protobuf at its byte {offset}")]
    MalformedMetadata {
        /// Where decoding stopped.
        offset: usize,
    },
    /// A string field is not UTF-8.
    #[error("metadata field {field} is not UTF-8")]
    InvalidUtf8 {
        /// The field's number.
        field: u32,
    },
    /// `payload_type` has an unknown value.
    #[error("payload_type {0} is not known")]
    UnknownPayloadType(
        /// The value.
        i32,
    ),
    /// `dtype` has an unknown value.
    #[error("dtype {0} is not known")]
    UnknownDtype(
        /// The value.
        i32,
    ),
    /// `mode` has an unknown value.
    #[error("mode {0} is not known")]
    UnknownMode(
        /// The value.
        i32,
    ),
    /// `tensor_shape` has too many dimensions.
    #[error("tensor_shape has more than {max} dimensions")]
    RankTooHigh {
        /// `Limits::max_rank`.
        max: usize,
    },
    /// `extra` has too many entries.
    #[error("extra has more than {max} entries")]
    TooManyExtra {
        /// `Limits::max_extra_entries`.
        max: usize,
    },
    /// A key of `extra` is too long.
    #[error("a key of extra has {len} bytes, the limit is {max}")]
    ExtraKeyTooLong {
        /// The key's length.
        len: usize,
        /// `Limits::max_extra_key_len`.
        max: usize,
    },
    /// A value of `extra` is too long.
    #[error("a value of extra has {len} bytes, the limit is {max}")]
    ExtraValueTooLong {
        /// The value's length.
        len: usize,
        /// `Limits::max_extra_value_len`.
        max: usize,
    },
    /// The compressed payload is not a zstd frame, or is corrupt.
    #[error("compressed payload is not a valid zstd frame: {0}")]
    InvalidCompression(
        /// What is wrong.
        &'static str,
    ),
    /// The compression field names something other than zstd.
    #[error("payload is compressed by something other than zstd")]
    UnknownCompression,
    /// The payload is compressed and this build has no zstd.
    #[error("payload is compressed, and avp-wire was built without its feature zstd")]
    CompressionUnavailable,
    /// The zstd frame does not state its content size.
    #[error("the zstd frame does not state its content size")]
    NoContentSize,
    /// Bytes follow the zstd frame.
    #[error("{0} bytes follow the zstd frame")]
    CompressedTrailingBytes(
        /// How many.
        u64,
    ),
    /// The zstd frame needs a larger window than granted.
    #[error("the zstd frame needs a window of {window} bytes, the limit is 2^{max_log}")]
    WindowTooLarge {
        /// Bytes of window.
        window: u64,
        /// `Limits::max_window_log`.
        max_log: u32,
    },
    /// The KV header is wrong.
    #[error(transparent)]
    Kv(#[from] KvError),
}

impl DecodeError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Truncated { .. } => ErrorCode::Truncated,
            Self::BadMagic(_) => ErrorCode::BadMagic,
            Self::UnsupportedVersion(_) => ErrorCode::UnsupportedVersion,
            Self::ReservedFlags(_) => ErrorCode::ReservedFlags,
            Self::MetadataBeyondPayload { .. } => ErrorCode::MetadataBeyondPayload,
            Self::TrailingBytes(_) => ErrorCode::TrailingBytes,
            Self::CompressedFlagMismatch { .. } => ErrorCode::CompressedFlagMismatch,
            Self::MapFlagMismatch { .. } => ErrorCode::MapFlagMismatch,
            Self::KvFlagMismatch { .. } => ErrorCode::KvFlagMismatch,
            Self::ChecksumMismatch { .. } => ErrorCode::ChecksumMismatch,
            Self::PayloadSizeMismatch { .. } => ErrorCode::PayloadSizeMismatch,
            Self::ShapeOverflow => ErrorCode::ShapeOverflow,
            Self::FrameTooLarge { .. } => ErrorCode::FrameTooLarge,
            Self::MemoryBudget { .. } => ErrorCode::MemoryBudget,
            Self::MetadataTooLarge { .. } => ErrorCode::MetadataTooLarge,
            Self::MalformedMetadata { .. } => ErrorCode::MalformedMetadata,
            Self::InvalidUtf8 { .. } => ErrorCode::InvalidUtf8,
            Self::UnknownPayloadType(_) => ErrorCode::UnknownPayloadType,
            Self::UnknownDtype(_) => ErrorCode::UnknownDtype,
            Self::UnknownMode(_) => ErrorCode::UnknownMode,
            Self::RankTooHigh { .. } => ErrorCode::RankTooHigh,
            Self::TooManyExtra { .. } => ErrorCode::TooManyExtra,
            Self::ExtraKeyTooLong { .. } => ErrorCode::ExtraKeyTooLong,
            Self::ExtraValueTooLong { .. } => ErrorCode::ExtraValueTooLong,
            Self::InvalidCompression(_) => ErrorCode::InvalidCompression,
            Self::UnknownCompression | Self::CompressionUnavailable => ErrorCode::UnknownCompression,
            Self::NoContentSize => ErrorCode::NoContentSize,
            Self::CompressedTrailingBytes(_) => ErrorCode::CompressedTrailingBytes,
            Self::WindowTooLarge { .. } => ErrorCode::WindowTooLarge,
            Self::Kv(error) => error.code(),
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.code().fault()
    }
}

/// Why a frame cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Metadata and payload together exceed what the header's u32 can say. Send slabs.
    #[error("metadata and payload have {len} bytes, a frame holds at most {max}: send it as slabs", max = u32::MAX)]
    TooLarge {
        /// Bytes of metadata and payload.
        len: u64,
    },
    /// zstd failed.
    #[error("zstd could not compress the payload: {0}")]
    Compression(
        /// What it said.
        &'static str,
    ),
    /// Compression was asked for and this build has no zstd.
    #[error("compression needs avp-wire's feature zstd, which this build does not have")]
    CompressionUnavailable,
}

impl EncodeError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::FrameTooLarge,
            Self::Compression(_) => ErrorCode::Internal,
            Self::CompressionUnavailable => ErrorCode::InvalidArgument,
        }
    }

    /// Whose fault it is: always the caller's.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::Caller
    }
}
