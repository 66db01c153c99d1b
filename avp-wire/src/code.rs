//! The stable table of error codes, and whose fault each of them is (docs/spec/errors.md).

use core::fmt;

/// Whose fault an error is, which decides what a caller does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Fault {
    /// The peer sent what the protocol forbids. Close the connection.
    Peer,
    /// The peer speaks correctly about something that does not fit here. Use another mode or peer.
    Incompatible,
    /// A limit was exceeded. Raise it or send less.
    Limit,
    /// The API was misused on this side. Fix the call.
    Caller,
    /// The network, the disk or the clock. Retry.
    Io,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $fault:ident;)+) => {
        /// Stable error codes, shared by wire rejects, `docs/spec/errors.md` and the vectors.
        ///
        /// Numbers and names never change their meaning and are never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl ErrorCode {
            /// Every code, by ascending number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number that a reject carries.
            #[must_use]
            pub const fn number(self) -> u16 {
                match self { $(Self::$variant => $number,)+ }
            }

            /// The name that vectors and logs use, such as `frame.bad_magic`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Whose fault it is, seen from the side that raises it.
            #[must_use]
            pub const fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)+ }
            }
        }
    };
}

codes! {
    /// Fewer bytes than the frame announces.
    Truncated = 100, "frame.truncated", Peer;
    /// The first two bytes are not `AV`.
    BadMagic = 101, "frame.bad_magic", Peer;
    /// The version byte is not 1.
    UnsupportedVersion = 102, "frame.unsupported_version", Incompatible;
    /// One of the flag bits 3 to 7 is set.
    ReservedFlags = 103, "frame.reserved_flags", Peer;
    /// `metadata_length` exceeds `payload_length`.
    MetadataBeyondPayload = 104, "frame.metadata_beyond_payload", Peer;
    /// Bytes follow the frame.
    TrailingBytes = 105, "frame.trailing_bytes", Peer;
    /// The COMPRESSED flag and the compression field disagree.
    CompressedFlagMismatch = 106, "frame.compressed_flag_mismatch", Peer;
    /// The HAS_MAP flag and `avp_map_id` disagree.
    MapFlagMismatch = 107, "frame.map_flag_mismatch", Peer;
    /// The KV_CACHE flag and `payload_type` disagree.
    KvFlagMismatch = 108, "frame.kv_flag_mismatch", Peer;
    /// The CRC-32 of the payload is not what the metadata says.
    ChecksumMismatch = 109, "frame.checksum_mismatch", Peer;
    /// The payload's length is not what shape and dtype, or the KV header, say.
    PayloadSizeMismatch = 110, "frame.payload_size_mismatch", Peer;
    /// The product of `tensor_shape` exceeds 64 bits.
    ShapeOverflow = 111, "frame.shape_overflow", Peer;
    /// The frame is longer than this side takes.
    FrameTooLarge = 112, "frame.too_large", Limit;
    /// The payload does not fit the memory budget.
    MemoryBudget = 113, "frame.memory_budget", Limit;

    /// The metadata is longer than this side takes.
    MetadataTooLarge = 200, "metadata.too_large", Limit;
    /// The metadata is not valid protobuf.
    MalformedMetadata = 201, "metadata.malformed", Peer;
    /// A string field is not UTF-8.
    InvalidUtf8 = 202, "metadata.invalid_utf8", Peer;
    /// `payload_type` has a value this version does not know.
    UnknownPayloadType = 203, "metadata.unknown_payload_type", Incompatible;
    /// `dtype` has a value this version does not know.
    UnknownDtype = 204, "metadata.unknown_dtype", Incompatible;
    /// `mode` has a value this version does not know.
    UnknownMode = 205, "metadata.unknown_mode", Incompatible;
    /// `tensor_shape` has too many dimensions.
    RankTooHigh = 206, "metadata.rank_too_high", Limit;
    /// `extra` has too many entries.
    TooManyExtra = 207, "metadata.too_many_extra", Limit;
    /// A key of `extra` is too long.
    ExtraKeyTooLong = 208, "metadata.extra_key_too_long", Limit;
    /// A value of `extra` is too long.
    ExtraValueTooLong = 209, "metadata.extra_value_too_long", Limit;
    /// A registered key of `extra` has a value that its syntax forbids.
    InvalidExtension = 210, "metadata.invalid_extension", Peer;

    /// The compressed payload is not a zstd frame, or is corrupt.
    InvalidCompression = 300, "compression.invalid", Peer;
    /// The compression field names something other than zstd.
    UnknownCompression = 301, "compression.unknown", Incompatible;
    /// The zstd frame does not state its content size.
    NoContentSize = 302, "compression.no_content_size", Peer;
    /// Bytes follow the zstd frame.
    CompressedTrailingBytes = 303, "compression.trailing_bytes", Peer;
    /// The zstd frame needs a larger window than this side grants.
    WindowTooLarge = 304, "compression.window_too_large", Limit;

    /// Fewer bytes than a KV header.
    KvTruncated = 400, "kv.truncated", Peer;
    /// The dtype byte of the KV header is not 0, 1 or 2.
    KvUnknownDtype = 401, "kv.unknown_dtype", Incompatible;
    /// A count of the KV header is zero.
    KvZeroDimension = 402, "kv.zero_dimension", Peer;
    /// The KV header announces another length than the payload has.
    KvSizeMismatch = 403, "kv.size_mismatch", Peer;
    /// The counts of the KV header exceed what can be addressed.
    KvOverflow = 404, "kv.overflow", Peer;
    /// A frame that is not a KV cache was given where one is needed.
    NotKvCache = 405, "kv.not_kv_cache", Incompatible;
    /// The KV cache belongs to another model, or has another shape.
    KvModelMismatch = 406, "kv.model_mismatch", Incompatible;

    /// A hello or reply that is not the JSON it should be.
    MalformedHello = 500, "handshake.malformed", Peer;
    /// The handshake is longer than this side takes.
    HandshakeTooLarge = 501, "handshake.too_large", Limit;
    /// The handshake did not finish in time.
    HandshakeTimeout = 502, "handshake.timeout", Limit;
    /// A frame came in a state that does not take it.
    UnexpectedFrame = 503, "handshake.unexpected_frame", Peer;
    /// No session of that id exists for this peer.
    UnknownSession = 504, "handshake.unknown_session", Peer;
    /// The session has outlived its time to live.
    SessionExpired = 505, "handshake.session_expired", Limit;
    /// The policy requires fingerprints and a peer announced none.
    Unverified = 506, "handshake.unverified", Incompatible;
    /// The peers announce different fingerprints.
    WeightsMismatch = 507, "handshake.weights_mismatch", Incompatible;
    /// An extension was used that the peer did not announce.
    NotAnnounced = 508, "handshake.not_announced", Peer;
    /// The credentials are missing or wrong.
    Unauthorized = 509, "handshake.unauthorized", Peer;

    /// The connection ended in the middle of a frame.
    ConnectionLost = 600, "transport.connection_lost", Io;
    /// Nothing came before the deadline.
    DeadlineExceeded = 601, "transport.deadline_exceeded", Io;
    /// Bytes come slower than the minimum rate.
    TooSlow = 602, "transport.too_slow", Limit;
    /// Too many connections or transfers at once.
    Busy = 603, "transport.busy", Limit;
    /// A budget for hellos, rejects, small frames or resets is spent.
    BudgetSpent = 604, "transport.budget_spent", Limit;
    /// The operating system reported an error.
    Io = 605, "transport.io", Io;
    /// Nobody here handles that kind of message.
    NoHandler = 606, "transport.no_handler", Incompatible;
    /// The transfer was cancelled.
    Cancelled = 607, "transport.cancelled", Caller;
    /// Something failed here that the peer cannot help.
    Internal = 608, "transport.internal", Caller;

    /// A slab contradicts its manifest.
    SlabMismatch = 700, "transfer.slab_mismatch", Peer;
    /// A slab's digest is not that of its bytes.
    DigestMismatch = 701, "transfer.digest_mismatch", Peer;
    /// Slabs are missing where the transfer ends.
    SlabsMissing = 702, "transfer.slabs_missing", Peer;
    /// A distribution that is not one.
    InvalidDistribution = 703, "transfer.invalid_distribution", Peer;
    /// The KV codec is not known here.
    UnknownCodec = 704, "transfer.unknown_codec", Incompatible;
    /// A manifest that is not one.
    InvalidManifest = 705, "transfer.invalid_manifest", Peer;
    /// A transfer has more slabs than this side takes.
    TooManySlabs = 706, "transfer.too_many_slabs", Limit;
    /// A vocabulary that is not one.
    InvalidVocabulary = 707, "transfer.invalid_vocabulary", Peer;
    /// A vocabulary that is not the one that its owner announced.
    VocabularyMismatch = 708, "transfer.vocabulary_mismatch", Peer;

    /// The arguments given to an encoder cannot be written.
    InvalidArgument = 800, "caller.invalid_argument", Caller;
}

impl ErrorCode {
    /// The code of a number from the wire, if this version knows it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }

    /// The code of a name, if this version knows it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str() == name)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_found_by_number_and_name() {
        let names: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.windows(2).all(|pair| pair[0].number() < pair[1].number()));
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(code));
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(code));
        }
        assert_eq!(ErrorCode::from_number(1), None);
    }
}
