//! The 12 bytes that every frame starts with (docs/spec/frame.md, section 2).

use crate::error::DecodeError;
use crate::limits::Limits;

/// What a frame starts with, "AV".
pub const MAGIC: [u8; 2] = *b"AV";
/// The version byte that this crate reads and writes.
pub const VERSION: u8 = 1;

/// The flags byte of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Flags(u8);

impl Flags {
    /// The payload is one zstd frame.
    pub const COMPRESSED: Self = Self(0x01);
    /// `avp_map_id` is not empty.
    pub const HAS_MAP: Self = Self(0x02);
    /// `payload_type` is `KV_CACHE`.
    pub const KV_CACHE: Self = Self(0x04);
    const KNOWN: u8 = 0x07;

    /// The byte as it is on the wire, reserved bits included.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The flags of a byte, reserved bits included.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether all flags of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags, and those of `other` if `on`.
    #[must_use]
    pub const fn with(self, other: Self, on: bool) -> Self {
        if on { Self(self.0 | other.0) } else { self }
    }

    /// Whether a bit is set that version 1 does not define.
    #[must_use]
    pub const fn has_reserved(self) -> bool {
        self.0 & !Self::KNOWN != 0
    }
}

/// The fixed header: flags and the two lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Header {
    /// What the frame claims about its metadata and payload.
    pub flags: Flags,
    /// Bytes after the header: metadata and payload as sent.
    pub payload_length: u32,
    /// Bytes of metadata.
    pub metadata_length: u32,
}

impl Header {
    /// Bytes on the wire.
    pub const SIZE: usize = 12;

    /// Reads and checks a header from the start of `bytes`; whatever follows it is not looked at.
    ///
    /// For streams: metadata beyond the payload is an error under every profile, because there would be no
    /// telling where the next frame starts. [`FrameHead::decode`](crate::FrameHead::decode) is for whole
    /// messages.
    ///
    /// # Errors
    /// `Truncated`, `BadMagic`, `UnsupportedVersion`, `ReservedFlags`, `MetadataBeyondPayload`,
    /// `FrameTooLarge`, `MetadataTooLarge`, `MemoryBudget`.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let header = Self::parse(bytes)?;
        header.check(limits)?;
        header.check_metadata(limits)?;
        Ok(header)
    }

    /// As [`decode`](Self::decode), for a message that is there as a whole: the lenient profile lets metadata
    /// go beyond the payload, and its limit is then held against the bytes that are there.
    pub(crate) fn decode_whole(bytes: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let header = Self::parse(bytes)?;
        header.check(limits)?;
        if !(limits.is_lenient() && header.metadata_length > header.payload_length) {
            header.check_metadata(limits)?;
        }
        Ok(header)
    }

    fn parse(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Some(&[m0, m1, version, flags, p0, p1, p2, p3, l0, l1, l2, l3]) = bytes.first_chunk() else {
            return Err(DecodeError::Truncated { needed: 12, got: len_u64(bytes) });
        };
        if [m0, m1] != MAGIC {
            return Err(DecodeError::BadMagic([m0, m1]));
        }
        if version != VERSION {
            return Err(DecodeError::UnsupportedVersion(version));
        }
        Ok(Self {
            flags: Flags(flags),
            payload_length: u32::from_le_bytes([p0, p1, p2, p3]),
            metadata_length: u32::from_le_bytes([l0, l1, l2, l3]),
        })
    }

    fn check(&self, limits: &Limits) -> Result<(), DecodeError> {
        if self.flags.has_reserved() && !limits.is_lenient() {
            return Err(DecodeError::ReservedFlags(self.flags.bits()));
        }
        if self.payload_length > limits.max_frame_len {
            let (len, max) = (self.payload_length, limits.max_frame_len);
            return Err(DecodeError::FrameTooLarge { len, max });
        }
        let needed = u64::from(self.payload_len_on_wire());
        if needed > limits.memory_budget {
            return Err(DecodeError::MemoryBudget { needed, budget: limits.memory_budget });
        }
        Ok(())
    }

    fn check_metadata(&self, limits: &Limits) -> Result<(), DecodeError> {
        if self.metadata_length > self.payload_length {
            let (metadata, payload) = (self.metadata_length, self.payload_length);
            return Err(DecodeError::MetadataBeyondPayload { metadata, payload });
        }
        if self.metadata_length > limits.max_metadata_len {
            let (len, max) = (self.metadata_length, limits.max_metadata_len);
            return Err(DecodeError::MetadataTooLarge { len, max });
        }
        Ok(())
    }

    /// The 12 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let [p0, p1, p2, p3] = self.payload_length.to_le_bytes();
        let [l0, l1, l2, l3] = self.metadata_length.to_le_bytes();
        let [m0, m1] = MAGIC;
        [m0, m1, VERSION, self.flags.bits(), p0, p1, p2, p3, l0, l1, l2, l3]
    }

    /// Bytes of payload as sent, after the metadata: compressed where the flag says so.
    #[must_use]
    pub const fn payload_len_on_wire(&self) -> u32 {
        self.payload_length.saturating_sub(self.metadata_length)
    }

    /// Bytes of the whole frame with this header.
    #[must_use]
    pub fn frame_len(&self) -> u64 {
        12 + u64::from(self.payload_length)
    }
}

/// A length as the errors and sizes of this crate count it.
pub(crate) fn len_u64(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// A length of the wire as an index; on targets where it does not fit it cannot be there either.
pub(crate) fn to_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
