//! Writing a frame (docs/spec/frame.md, section 7): a small head, and the payload as it is.

use alloc::borrow::{Cow, ToOwned};
use alloc::string::String;
use alloc::vec::Vec;
#[cfg(feature = "std")]
use std::io::IoSlice;

use bytes::buf::Chain;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::compression::{Compression, compress};
use crate::error::EncodeError;
use crate::ext;
use crate::frame::{Frame, tensor_offset};
use crate::header::{Flags, Header, len_u64};
use crate::metadata::{Metadata, PayloadType};

/// Tensor data starts at a multiple of this, where alignment is asked for.
pub const ALIGNMENT: usize = 64;

/// How a frame is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct EncodeOptions {
    /// Compress the payload with zstd. Default: no.
    pub compression: Option<Compression>,
    /// Write the payload's CRC-32, which costs a pass over it. Default: yes, as the SDK does. It may be left
    /// out where the transport protects the bytes or nothing can corrupt them.
    pub checksum: bool,
    /// Add `avp.pad` so that tensor data starts 64-byte aligned from the frame's start. Default: no. Ignored
    /// with compression. Only for files and for peers that announced the key.
    pub align: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { compression: None, checksum: true, align: false }
    }
}

/// A frame ready to be written: head (header and metadata) and payload, never concatenated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    /// Header and metadata.
    pub head: Bytes,
    /// The payload as it goes out, compressed where asked for.
    pub payload: Bytes,
}

impl EncodedFrame {
    /// Bytes of the whole frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len().saturating_add(self.payload.len())
    }

    /// Whether there is nothing to write: never, a frame has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both parts for a vectored write.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn io_slices(&self) -> [IoSlice<'_>; 2] {
        [IoSlice::new(&self.head), IoSlice::new(&self.payload)]
    }

    /// Both parts as one buffer that is written through, without a copy.
    #[must_use]
    pub fn into_buf(self) -> Chain<Bytes, Bytes> {
        self.head.chain(self.payload)
    }

    /// The frame as one vector: a copy, for tests and small frames.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        [&*self.head, &*self.payload].concat()
    }
}

impl Frame {
    /// Encodes the frame. The payload is shared, not copied, unless it is compressed.
    ///
    /// `compression`, `payload_checksum` and `avp.pad` of the metadata are set by `options`; flags follow from
    /// the metadata.
    ///
    /// # Errors
    /// `TooLarge` if metadata and payload exceed 32 bits, `Compression` if zstd fails.
    pub fn encode(&self, options: &EncodeOptions) -> Result<EncodedFrame, EncodeError> {
        let checksum = options.checksum.then(|| crc32fast::hash(&self.payload));
        let payload = match options.compression {
            Some(compression) => compress(&self.payload, compression)?,
            None => self.payload.clone(),
        };
        let metadata = outgoing(&self.metadata, options, checksum);
        let head = head(&metadata, len_u64(&payload))?;
        Ok(EncodedFrame { head, payload })
    }
}

impl Frame {
    /// The head of a frame whose payload of `len` bytes is not at hand, for a writer that streams it. The payload's
    /// checksum is the one in `metadata`; with `align` it gets `avp.pad`, as in [`EncodeOptions::align`].
    ///
    /// # Errors
    /// `TooLarge` if metadata and payload exceed 32 bits.
    pub fn head_for(mut metadata: Metadata, len: u64, align: bool) -> Result<Bytes, EncodeError> {
        metadata.extra.remove(ext::PAD);
        if align {
            let pad = pad(&metadata);
            metadata.extra.insert(ext::PAD.to_owned(), pad);
        }
        head(&metadata, len)
    }
}

/// Header and metadata before a payload of `payload_len` bytes.
fn head(metadata: &Metadata, payload_len: u64) -> Result<Bytes, EncodeError> {
    let metadata_len = metadata.encoded_len();
    let too_large = |len: u64| EncodeError::TooLarge { len };
    let len = u64::try_from(metadata_len).unwrap_or(u64::MAX).saturating_add(payload_len);
    let header = Header {
        flags: flags(metadata),
        payload_length: u32::try_from(len).map_err(|_| too_large(len))?,
        metadata_length: u32::try_from(metadata_len).map_err(|_| too_large(len))?,
    };
    let mut head = BytesMut::with_capacity(Header::SIZE + metadata_len);
    head.put_slice(&header.encode());
    metadata.encode(&mut head);
    Ok(head.freeze())
}

/// The metadata as it goes out; a copy only where something has to change.
fn outgoing<'a>(metadata: &'a Metadata, options: &EncodeOptions, checksum: Option<u32>) -> Cow<'a, Metadata> {
    let compression = options.compression.map(|_| Compression::NAME);
    let aligned = options.align && compression.is_none();
    let mut out = Cow::Borrowed(metadata);
    if metadata.compression.as_deref() != compression {
        out.to_mut().compression = compression.map(str::to_owned);
    }
    if metadata.payload_checksum != checksum {
        out.to_mut().payload_checksum = checksum;
    }
    if metadata.extra.contains_key(ext::PAD) {
        out.to_mut().extra.remove(ext::PAD);
    }
    if aligned {
        let pad = pad(&out);
        out.to_mut().extra.insert(ext::PAD.to_owned(), pad);
    }
    out
}

/// Spaces that bring the tensor data of a frame with this metadata to a multiple of [`ALIGNMENT`].
fn pad(metadata: &Metadata) -> String {
    // Tag and length of the map entry, tag and length of its key, the key, tag and length of the value: below
    // 64 spaces each length is one byte.
    const ENTRY: usize = 2 + 2 + ext::PAD.len() + 2;
    let unpadded = Header::SIZE + metadata.encoded_len() + ENTRY + tensor_offset(metadata);
    " ".repeat(unpadded.next_multiple_of(ALIGNMENT) - unpadded)
}

fn flags(metadata: &Metadata) -> Flags {
    Flags::default()
        .with(Flags::COMPRESSED, metadata.compression.is_some())
        .with(Flags::HAS_MAP, !metadata.avp_map_id.is_empty())
        .with(Flags::KV_CACHE, metadata.payload_type == PayloadType::KvCache)
}
