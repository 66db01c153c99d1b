//! What a transfer consists of, and the frames that carry it.

use alloc::borrow::ToOwned;
use alloc::string::ToString;
use alloc::vec::Vec;

use bytes::Bytes;

use super::{SlabError, SlabId, TransferId};
use crate::ext::{self, FrameKind};
use crate::frame::Frame;
use crate::kv::{KvError, KvHeader, KvPayload};
use crate::metadata::{Metadata, Mode, PayloadType};

/// A KV cache and the regular grid that cuts it into slabs.
///
/// Slabs at the far edges are smaller. Their index counts layers from the first to the last, and within them tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Manifest {
    /// The whole cache.
    pub kv: KvHeader,
    /// Layers of a slab.
    pub slab_layers: u32,
    /// Tokens of a slab.
    pub slab_tokens: u32,
    /// The transfer's digest, where it is known before the slabs leave: see [`transfer_digest`](super::transfer_digest).
    pub digest: Option<[u8; 32]>,
}

impl Manifest {
    /// Bytes of a manifest without a digest.
    const SIZE: usize = KvHeader::SIZE + 8;

    /// A grid of `slab_layers` by `slab_tokens`, at least one of each.
    #[must_use]
    pub fn new(kv: KvHeader, slab_layers: u32, slab_tokens: u32) -> Self {
        Self { kv, slab_layers: slab_layers.max(1), slab_tokens: slab_tokens.max(1), digest: None }
    }

    /// A grid whose slabs have at most about `slab_len` bytes: whole layers where they fit, otherwise runs of tokens
    /// of one layer.
    #[must_use]
    pub fn with_slab_len(kv: KvHeader, slab_len: u64) -> Self {
        let of_token = [2, kv.num_kv_heads, kv.head_dim].into_iter().map(u64::from);
        let of_token = of_token.fold(len_u64(kv.dtype.size()), u64::saturating_mul).max(1);
        let of_layer = of_token.saturating_mul(u64::from(kv.seq_len)).max(1);
        let layers = u32::try_from(slab_len / of_layer).unwrap_or(u32::MAX).min(kv.num_layers);
        let tokens = match layers {
            0 => u32::try_from(slab_len / of_token).unwrap_or(u32::MAX),
            _ => kv.seq_len,
        };
        Self::new(kv, layers, tokens)
    }

    /// Reads the payload of a manifest frame. Its counts are the peer's word until slabs come: `max_slabs` bounds the
    /// grid, not layers and tokens.
    ///
    /// # Errors
    /// `ManifestLength`, `ZeroCount`, and `Kv` for the cache's header.
    pub fn decode(payload: &[u8]) -> Result<Self, SlabError> {
        let length = SlabError::ManifestLength { got: payload.len() };
        let (head, digest) = payload.split_first_chunk::<{ Self::SIZE }>().ok_or(length.clone())?;
        let digest = match digest {
            [] => None,
            digest => Some(digest.try_into().map_err(|_| length)?),
        };
        let &[.., l0, l1, l2, l3, t0, t1, t2, t3] = head;
        let (layers, tokens) = (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([t0, t1, t2, t3]));
        let kv = KvHeader::decode(head)?;
        let manifest = Self { kv, slab_layers: layers, slab_tokens: tokens, digest };
        if manifest.has_zero_count() {
            return Err(SlabError::ZeroCount);
        }
        cache_len(&kv).ok_or(KvError::Overflow)?;
        Ok(manifest)
    }

    /// The payload of a manifest frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::SIZE + 32);
        out.extend_from_slice(&self.kv.encode());
        out.extend_from_slice(&self.slab_layers.to_le_bytes());
        out.extend_from_slice(&self.slab_tokens.to_le_bytes());
        out.extend(self.digest.into_iter().flatten());
        out
    }

    /// Reads a manifest frame and the name of its transfer.
    ///
    /// # Errors
    /// `NotManifest`, and those of [`decode`](Self::decode).
    pub fn from_frame(frame: &Frame) -> Result<(Self, TransferId), SlabError> {
        let metadata = &frame.metadata;
        let is_manifest = frame.kind() == Ok(Some(FrameKind::Manifest))
            && metadata.payload_type == PayloadType::HiddenState
            && metadata.mode == Mode::Latent
            && metadata.tensor_shape.is_empty();
        let transfer = metadata.extra.get(ext::TRANSFER).and_then(|id| id.parse().ok());
        let transfer = transfer.filter(|_| is_manifest).ok_or(SlabError::NotManifest)?;
        Ok((Self::decode(&frame.payload)?, transfer))
    }

    /// The manifest frame. `context` describes the cache as the metadata of a whole context would.
    #[must_use]
    pub fn to_frame(&self, context: Metadata, transfer: &TransferId) -> Frame {
        let mut metadata = Metadata {
            payload_type: PayloadType::HiddenState,
            mode: Mode::Latent,
            dtype: self.kv.dtype.into(),
            tensor_shape: Vec::new(),
            ..context
        };
        metadata.extra.insert(ext::KIND.to_owned(), FrameKind::Manifest.as_str().to_owned());
        metadata.extra.insert(ext::TRANSFER.to_owned(), transfer.to_string());
        Frame::new(metadata, self.encode())
    }

    /// The frame of a slab, with the digest of its payload: one pass over it. `metadata` says between whom the slab
    /// travels; what the payload is follows from the manifest.
    ///
    /// # Errors
    /// `OffGrid`, `Header`, and `Kv` where `payload` is no KV payload.
    pub fn slab_frame(
        &self,
        metadata: Metadata,
        transfer: &TransferId,
        id: &SlabId,
        payload: Bytes,
    ) -> Result<Frame, SlabError> {
        let kv = self.check(id, KvPayload::parse(payload)?)?;
        let mut metadata = Metadata {
            payload_type: PayloadType::KvCache,
            mode: Mode::Latent,
            dtype: self.kv.dtype.into(),
            tensor_shape: Vec::new(),
            ..metadata
        };
        let digest = blake3::hash(kv.as_bytes()).to_hex();
        for (key, value) in [
            (ext::KIND, FrameKind::Slab.as_str().to_owned()),
            (ext::TRANSFER, transfer.to_string()),
            (ext::SLAB, id.to_string()),
            (ext::BLAKE3, digest.as_str().to_owned()),
        ] {
            metadata.extra.insert(key.to_owned(), value);
        }
        Ok(Frame::new(metadata, kv.into_bytes()))
    }

    /// Slabs of the grid.
    #[must_use]
    pub fn slab_count(&self) -> u64 {
        u64::from(self.layer_blocks()) * u64::from(self.token_blocks())
    }

    /// The slab of an index; `None` beyond the last.
    #[must_use]
    pub fn slab(&self, index: u32) -> Option<SlabId> {
        let (row, column) = (index / self.token_blocks(), index % self.token_blocks());
        let cell = |block: u32, step: u32, all: u32| {
            let step = step.max(1);
            let first = block.checked_mul(step).filter(|&first| first < all)?;
            Some((first, step.min(all - first)))
        };
        let (first_layer, layers) = cell(row, self.slab_layers, self.kv.num_layers)?;
        let (first_token, tokens) = cell(column, self.slab_tokens, self.kv.seq_len)?;
        Some(SlabId { first_layer, layers, first_token, tokens })
    }

    /// All slabs, by index.
    pub fn slabs(&self) -> impl Iterator<Item = SlabId> {
        let manifest = *self;
        (0..=u32::MAX).map_while(move |index| manifest.slab(index))
    }

    /// The index of a slab; `None` if it is not a cell of the grid.
    #[must_use]
    pub fn index(&self, id: &SlabId) -> Option<u32> {
        let row = id.first_layer.checked_div(self.slab_layers)?;
        let column = id.first_token.checked_div(self.slab_tokens)?;
        let index = row.checked_mul(self.token_blocks())?.checked_add(column)?;
        (self.slab(index).as_ref() == Some(id)).then_some(index)
    }

    /// The KV header of a slab's payload.
    #[must_use]
    pub fn slab_header(&self, id: &SlabId) -> KvHeader {
        KvHeader { num_layers: id.layers, seq_len: id.tokens, ..self.kv }
    }

    /// Holds a slab's payload against the grid.
    pub(super) fn check(&self, id: &SlabId, kv: KvPayload) -> Result<KvPayload, SlabError> {
        if self.index(id).is_none() {
            return Err(SlabError::OffGrid(*id));
        }
        let (expected, got) = (self.slab_header(id), *kv.header());
        if got != expected {
            return Err(SlabError::Header { id: *id, expected, got });
        }
        Ok(kv)
    }

    pub(super) fn has_zero_count(&self) -> bool {
        self.slab_layers == 0 || self.slab_tokens == 0 || self.kv.check_counts().is_err()
    }

    pub(super) fn layer_blocks(&self) -> u32 {
        self.kv.num_layers.div_ceil(self.slab_layers.max(1))
    }

    /// At least 1, so that an index can be divided by it.
    pub(super) fn token_blocks(&self) -> u32 {
        self.kv.seq_len.div_ceil(self.slab_tokens.max(1)).max(1)
    }
}

/// Bytes of the whole cache, which may be more than this machine can address.
fn cache_len(kv: &KvHeader) -> Option<u64> {
    let mut counts = [2, kv.num_layers, kv.num_kv_heads, kv.seq_len, kv.head_dim].into_iter().map(u64::from);
    counts.try_fold(len_u64(kv.dtype.size()), u64::checked_mul)?.checked_add(len_u64(KvHeader::SIZE))
}

fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
