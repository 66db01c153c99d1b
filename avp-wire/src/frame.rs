//! A whole frame, and its head alone (docs/spec/frame.md).

use bytes::Bytes;

use crate::compression::{Compressed, Compression};
use crate::error::DecodeError;
use crate::ext;
use crate::header::{Flags, Header, len_u64, to_usize};
use crate::kv::{KvError, KvHeader, KvPayload};
use crate::limits::{Limits, Profile};
use crate::metadata::{Metadata, Mode, PayloadType};

/// Metadata and payload, before compression. The payload is a view of the bytes it was decoded from.
///
/// ```
/// use avp_wire::{EncodeOptions, Frame, Limits, Metadata};
///
/// let frame = Frame::new(Metadata::default(), &b"\0\0\x80\x3f"[..]);
/// let wire = frame.encode(&EncodeOptions::default()).unwrap().to_vec();
/// assert_eq!(Frame::decode(wire.into(), &Limits::default()).unwrap().payload, frame.payload);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Frame {
    /// What the payload is.
    pub metadata: Metadata,
    /// The payload, uncompressed.
    pub payload: Bytes,
}

impl Frame {
    /// A frame of its parts.
    pub fn new(metadata: Metadata, payload: impl Into<Bytes>) -> Self {
        Self { metadata, payload: payload.into() }
    }

    /// Decodes the one frame that fills `bytes`. An uncompressed payload is a view of `bytes`.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    pub fn decode(bytes: Bytes, limits: &Limits) -> Result<Self, DecodeError> {
        let header = Header::decode_whole(&bytes, limits)?;
        let end = Header::SIZE.saturating_add(to_usize(header.payload_length));
        if bytes.len() < end {
            return Err(DecodeError::Truncated { needed: header.frame_len(), got: len_u64(&bytes) });
        }
        if bytes.len() > end && !limits.is_lenient() {
            return Err(DecodeError::TrailingBytes(len_u64(&bytes).saturating_sub(header.frame_len())));
        }
        let head = FrameHead::decode(&bytes, limits)?;
        let start = end.saturating_sub(to_usize(header.payload_len_on_wire()));
        head.into_frame(bytes.slice(start..end), limits)
    }

    /// The payload as a KV cache.
    ///
    /// # Errors
    /// `NotKvCache` if the metadata says otherwise, and those of [`KvPayload::parse`].
    pub fn kv(&self) -> Result<KvPayload, KvError> {
        match self.metadata.payload_type {
            PayloadType::KvCache => KvPayload::parse(self.payload.clone()),
            PayloadType::HiddenState => Err(KvError::NotKvCache),
        }
    }

    /// Holds the payload against its checksum, where it has one: one pass over it.
    ///
    /// # Errors
    /// `ChecksumMismatch`.
    pub fn verify_checksum(&self) -> Result<(), DecodeError> {
        match self.metadata.payload_checksum {
            Some(expected) => compare_checksums(expected, crc32fast::hash(&self.payload)),
            None => Ok(()),
        }
    }

    /// The frame's kind on native transports, where it has one.
    ///
    /// # Errors
    /// If `avp.kind` has a value that the registry does not know.
    pub fn kind(&self) -> Result<Option<ext::FrameKind>, ext::ExtError> {
        self.metadata.extra.get(ext::KIND).map(|kind| kind.parse()).transpose()
    }
}

/// Header and metadata: all that can be known about a frame before its payload is read.
///
/// Transports read [`Header::SIZE`] bytes, then the metadata, then
/// [`payload_len_on_wire`](Self::payload_len_on_wire) bytes into a buffer of their own, and call
/// [`into_frame`](Self::into_frame) with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct FrameHead {
    /// The fixed header.
    pub header: Header,
    /// The metadata.
    pub metadata: Metadata,
}

impl FrameHead {
    /// What the frame is on a native transport; `None` where it does not say, or not as the registry has it.
    #[must_use]
    pub fn kind(&self) -> Option<ext::FrameKind> {
        self.metadata.extra.get(ext::KIND)?.parse().ok()
    }

    /// Decodes the head at the start of `bytes`, which may go on with the payload or end before it.
    ///
    /// # Errors
    /// Those of [`Header::decode`], of which the lenient profile drops `MetadataBeyondPayload`, and [`from_parts`](Self::from_parts).
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let header = Header::decode_whole(bytes, limits)?;
        let rest = bytes.get(Header::SIZE..).unwrap_or_default();
        let metadata = match rest.get(..to_usize(header.metadata_length)) {
            Some(metadata) => metadata,
            // The SDK takes what there is where metadata_length points beyond the message.
            None if limits.is_lenient() && header.metadata_length > header.payload_length => rest,
            None => {
                let needed = u64::from(header.metadata_length).saturating_add(12);
                return Err(DecodeError::Truncated { needed, got: len_u64(bytes) });
            }
        };
        Self::from_parts(header, metadata, limits)
    }

    /// Decodes the metadata of a header that was read before, and holds the flags against it.
    ///
    /// # Errors
    /// Those of [`Metadata::decode`], and the flag mismatches.
    pub fn from_parts(header: Header, metadata: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let metadata = Metadata::decode(metadata, limits)?;
        let head = Self { header, metadata };
        if !limits.is_lenient() {
            head.check_flags()?;
        }
        Ok(head)
    }

    /// Bytes of payload that follow the metadata on the wire.
    #[must_use]
    pub fn payload_len_on_wire(&self) -> u32 {
        self.header.payload_len_on_wire()
    }

    /// Where in the payload its tensor data starts: after the KV header, or at once.
    #[must_use]
    pub fn tensor_offset(&self) -> usize {
        tensor_offset(&self.metadata)
    }

    /// Bytes that a payload as it came has when it is unpacked, as it states itself; nothing is unpacked.
    ///
    /// # Errors
    /// What is wrong with the start of a compressed payload.
    pub fn unpacked_len(&self, wire_payload: &[u8], limits: &Limits) -> Result<u64, DecodeError> {
        if self.header.flags.contains(Flags::COMPRESSED) {
            return Compressed::open(wire_payload, limits).map(|compressed| compressed.content_size());
        }
        Ok(u64::try_from(wire_payload.len()).unwrap_or(u64::MAX))
    }

    /// Joins the head with its payload as it came: checks lengths, decompresses, verifies the checksum.
    ///
    /// # Errors
    /// `Truncated` or `TrailingBytes` if `wire_payload` has another length than announced; everything about
    /// compression, sizes and checksum.
    pub fn into_frame(self, wire_payload: Bytes, limits: &Limits) -> Result<Frame, DecodeError> {
        let frame = self.into_unverified(wire_payload, limits)?;
        if limits.verify_checksum {
            frame.verify_checksum()?;
        }
        Ok(frame)
    }

    /// Whether the payload can be checked while it arrives: its checksum is there and to be verified, and is about the
    /// bytes on the wire. [`PayloadBuffer::summing`](crate::PayloadBuffer::summing) does it.
    #[must_use]
    pub fn sums_on_arrival(&self, limits: &Limits) -> bool {
        limits.verify_checksum
            && self.metadata.payload_checksum.is_some()
            && !self.header.flags.contains(Flags::COMPRESSED)
    }

    /// As [`into_frame`](Self::into_frame) for a payload that was summed as it arrived, without a pass over it.
    ///
    /// # Errors
    /// As [`into_frame`](Self::into_frame).
    pub fn into_summed(
        self,
        wire_payload: Bytes,
        checksum: u32,
        limits: &Limits,
    ) -> Result<Frame, DecodeError> {
        let frame = self.into_unverified(wire_payload, limits)?;
        if let Some(expected) = frame.metadata.payload_checksum {
            compare_checksums(expected, checksum)?;
        }
        Ok(frame)
    }

    /// As [`into_frame`](Self::into_frame), without the pass over the payload that its checksum takes:
    /// [`Frame::verify_checksum`] makes up for it, at a better time or on another thread.
    ///
    /// # Errors
    /// As [`into_frame`](Self::into_frame), but for `ChecksumMismatch`.
    pub fn into_unverified(self, wire_payload: Bytes, limits: &Limits) -> Result<Frame, DecodeError> {
        let announced = u64::from(self.payload_len_on_wire());
        let got = len_u64(&wire_payload);
        if got < announced {
            let head = self.header.frame_len().saturating_sub(announced);
            return Err(DecodeError::Truncated { needed: head + announced, got: head + got });
        }
        if got > announced {
            return Err(DecodeError::TrailingBytes(got - announced));
        }
        let payload = if self.header.flags.contains(Flags::COMPRESSED) {
            decompress(&self.metadata, &wire_payload, limits)?
        } else {
            if limits.profile == Profile::Strict {
                check_len(expected_len(&self.metadata, || Ok(wire_payload.clone()))?, got)?;
            }
            wire_payload
        };
        Ok(Frame { metadata: self.metadata, payload })
    }

    /// docs/spec/frame.md, section 4: flags and metadata say the same.
    fn check_flags(&self) -> Result<(), DecodeError> {
        let flags = self.header.flags;
        let compressed = flags.contains(Flags::COMPRESSED);
        match self.metadata.compression.as_deref().unwrap_or_default() {
            "" if compressed => return Err(DecodeError::CompressedFlagMismatch { flag: compressed }),
            "" => {}
            _ if !compressed => return Err(DecodeError::CompressedFlagMismatch { flag: compressed }),
            Compression::NAME => {}
            _ => return Err(DecodeError::UnknownCompression),
        }
        let has_map = flags.contains(Flags::HAS_MAP);
        if has_map == self.metadata.avp_map_id.is_empty() {
            return Err(DecodeError::MapFlagMismatch { flag: has_map });
        }
        let kv_cache = flags.contains(Flags::KV_CACHE);
        if kv_cache != (self.metadata.payload_type == PayloadType::KvCache) {
            return Err(DecodeError::KvFlagMismatch { flag: kv_cache });
        }
        Ok(())
    }
}

fn compare_checksums(expected: u32, got: u32) -> Result<(), DecodeError> {
    if expected == got { Ok(()) } else { Err(DecodeError::ChecksumMismatch { expected, got }) }
}

/// Where in a payload its tensor data starts.
pub(crate) fn tensor_offset(metadata: &Metadata) -> usize {
    match metadata.payload_type {
        PayloadType::KvCache => KvHeader::SIZE,
        PayloadType::HiddenState => 0,
    }
}

fn decompress(metadata: &Metadata, wire_payload: &[u8], limits: &Limits) -> Result<Bytes, DecodeError> {
    let compressed = Compressed::open(wire_payload, limits)?;
    if !limits.is_lenient() {
        let mut kv_header = [0; KvHeader::SIZE];
        let start = || match usize::try_from(compressed.content_size()) {
            // By what it states, without unpacking it.
            Ok(got) if got < KvHeader::SIZE => Err(KvError::Truncated { got }.into()),
            _ => compressed.peek(&mut kv_header).map(Bytes::copy_from_slice),
        };
        check_len(expected_len(metadata, start)?, compressed.content_size())?;
    }
    compressed.decompress()
}

/// The payload's length as shape and dtype or its KV header say; `None` where neither does. `start` gives at
/// least the KV header's bytes of the payload.
fn expected_len(
    metadata: &Metadata,
    start: impl FnOnce() -> Result<Bytes, DecodeError>,
) -> Result<Option<u64>, DecodeError> {
    let has_kv_header = metadata.payload_type == PayloadType::KvCache
        && metadata.mode == Mode::Latent
        && !metadata.extra.contains_key(ext::CODEC);
    if !has_kv_header {
        return metadata.tensor_len();
    }
    let len = KvHeader::decode(&start()?)?.payload_len()?;
    Ok(Some(u64::try_from(len).unwrap_or(u64::MAX)))
}

fn check_len(expected: Option<u64>, got: u64) -> Result<(), DecodeError> {
    match expected {
        Some(expected) if expected != got => Err(DecodeError::PayloadSizeMismatch { expected, got }),
        _ => Ok(()),
    }
}
