//! Contexts on their way out: a frame, a file, or what an engine holds, cut into slabs that are read when they go.

use std::fmt;
#[cfg(target_os = "linux")]
use std::os::fd::OwnedFd;
use std::sync::Arc;

use avp_backend::{Context, ContextError, ContextStamp, KvRange};
use avp_wire::slab::{Manifest, SlabId, TransferId};
use avp_wire::{BufferPool, Bytes, Frame, KvError, KvHeader, KvPayload, Metadata};

use crate::file::FileError;

/// Most bytes of a slab: what a broken connection can cost.
const SLAB_MOST: u64 = 4 << 20;
/// Fewest, so that heads and digests stay small beside it.
const SLAB_LEAST: u64 = 128 << 10;
/// Slabs that a receiver should have, to be busy with the first while the last are on their way.
const SLABS: u64 = 16;
/// A context of so many bytes goes in one, since asking what is missing would cost a round trip.
const ONE_SLAB: u64 = 1 << 20;

/// A context to hand over. Cloning copies pointers.
///
/// It has a transfer id of its own, by which a receiver knows it again on another connection: a handover that broke goes
/// on where it stopped when the same `OutgoingContext` is handed over again.
#[derive(Clone)]
pub struct OutgoingContext {
    metadata: Metadata,
    manifest: Manifest,
    transfer: TransferId,
    source: Arc<dyn SlabSource>,
}

/// Where the slabs of a context come from.
pub(crate) trait SlabSource: Send + Sync {
    /// Writes the payload of slab `id`, header and planes, to `out`, which is as long.
    fn read(&self, manifest: &Manifest, id: &SlabId, out: &mut [u8]) -> Result<(), SourceError>;

    /// The payload of the whole cache, where it is at hand without a copy.
    fn whole(&self) -> Option<Bytes> {
        None
    }

    /// The planes of the whole cache in memory of `device`, where they lie on it.
    #[cfg(target_os = "linux")]
    fn share(&self, _device: &str) -> Result<Option<OwnedFd>, SourceError> {
        Ok(None)
    }
}

/// Why a slab cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The engine failed.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The file cannot be read, or is no longer what it was.
    #[error(transparent)]
    File(#[from] Box<FileError>),
    /// The slab is not one of this context.
    #[error(transparent)]
    Slab(#[from] avp_wire::slab::SlabError),
}

impl OutgoingContext {
    /// A context that an agent holds; its slabs leave the engine one by one.
    ///
    /// # Errors
    /// [`ContextError::Empty`], or more tokens than a header can say.
    pub fn of_context(context: &Context) -> Result<Self, ContextError> {
        let header = context.kv_header()?;
        let metadata = context.metadata(&ContextStamp { extensions: true, ..ContextStamp::default() });
        Ok(Self::new(metadata, cut(header), Arc::new(context.clone())))
    }

    /// The context in a frame.
    ///
    /// # Errors
    /// [`KvError`] if the frame is not a context.
    pub fn of_frame(frame: &Frame) -> Result<Self, KvError> {
        let kv = frame.kv()?;
        Ok(Self::new(frame.metadata.clone(), cut(*kv.header()), Arc::new(kv)))
    }

    pub(crate) fn new(metadata: Metadata, manifest: Manifest, source: Arc<dyn SlabSource>) -> Self {
        let transfer = TransferId::from_random(rand::random());
        Self { metadata, manifest, transfer, source }
    }

    /// The same context in slabs of at most about `bytes`, as another transfer.
    #[must_use]
    pub fn with_slab_len(self, bytes: u64) -> Self {
        Self::new(self.metadata, Manifest::with_slab_len(self.manifest.kv, bytes), self.source)
    }

    /// What is said of it beside the cache.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Shape and type of the cache.
    #[must_use]
    pub fn kv_header(&self) -> &KvHeader {
        &self.manifest.kv
    }

    /// How it is cut.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The id of its transfer.
    #[must_use]
    pub fn transfer(&self) -> &TransferId {
        &self.transfer
    }

    /// Bytes of the cache, in all slabs together.
    #[must_use]
    pub fn kv_bytes(&self) -> u64 {
        bytes_of(&self.manifest.kv)
    }

    /// The same context for a second handover in a session, in which ids serve once.
    pub(crate) fn under_another_id(&self) -> Self {
        Self { transfer: TransferId::from_random(rand::random()), ..self.clone() }
    }

    /// The frame of slab `index` with `metadata`; `None` beyond the last. Reads and hashes: for a blocking thread.
    pub(crate) fn slab(
        &self,
        index: u32,
        metadata: Metadata,
        pool: &BufferPool,
    ) -> Result<Option<Frame>, SourceError> {
        let Some(id) = self.manifest.slab(index) else { return Ok(None) };
        let payload = self.payload(&id, pool)?;
        Ok(Some(self.manifest.slab_frame(metadata, &self.transfer, &id, payload)?))
    }

    /// The planes of the whole cache in memory of `device`, where they lie on it. Copies: for a blocking thread.
    #[cfg(target_os = "linux")]
    pub(crate) fn share(&self, device: &str) -> Result<Option<OwnedFd>, SourceError> {
        self.source.share(device)
    }

    /// The payload of the whole cache.
    pub(crate) fn whole(&self, pool: &BufferPool) -> Result<Bytes, SourceError> {
        let KvHeader { num_layers: layers, seq_len: tokens, .. } = self.manifest.kv;
        let one = Self { manifest: Manifest::new(self.manifest.kv, layers, tokens), ..self.clone() };
        one.payload(&SlabId { first_layer: 0, layers, first_token: 0, tokens }, pool)
    }

    fn payload(&self, id: &SlabId, pool: &BufferPool) -> Result<Bytes, SourceError> {
        let header = self.manifest.slab_header(id);
        if header == self.manifest.kv
            && let Some(whole) = self.source.whole()
        {
            return Ok(whole);
        }
        let len = header.payload_len().map_err(avp_wire::slab::SlabError::from)?;
        let mut buffer = pool.get(len, KvHeader::SIZE);
        self.source.read(&self.manifest, id, &mut buffer)?;
        Ok(buffer.freeze())
    }
}

/// How a cache is cut unless its sender says otherwise.
fn cut(header: KvHeader) -> Manifest {
    let bytes = bytes_of(&header);
    let slab = if bytes <= ONE_SLAB { ONE_SLAB } else { (bytes / SLABS).clamp(SLAB_LEAST, SLAB_MOST) };
    Manifest::with_slab_len(header, slab)
}

/// Bytes of a cache.
pub(crate) fn bytes_of(kv: &KvHeader) -> u64 {
    let counts = [kv.num_layers, kv.num_kv_heads, kv.seq_len, kv.head_dim].map(u64::from);
    counts.into_iter().fold(2 * kv.dtype.size() as u64, u64::saturating_mul)
}

impl fmt::Debug for OutgoingContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingContext")
            .field("model", &self.metadata.model_id)
            .field("tokens", &self.manifest.kv.seq_len)
            .field("slabs", &self.manifest.slab_count())
            .finish_non_exhaustive()
    }
}

impl TryFrom<&Frame> for OutgoingContext {
    type Error = KvError;

    fn try_from(frame: &Frame) -> Result<Self, KvError> {
        Self::of_frame(frame)
    }
}

impl SlabSource for KvPayload {
    fn read(&self, manifest: &Manifest, id: &SlabId, out: &mut [u8]) -> Result<(), SourceError> {
        Ok(manifest.extract(self, id, out)?)
    }

    fn whole(&self) -> Option<Bytes> {
        Some(self.as_bytes().clone())
    }
}

impl SlabSource for Context {
    fn read(&self, manifest: &Manifest, id: &SlabId, out: &mut [u8]) -> Result<(), SourceError> {
        let planes = manifest.slab_header(id).write_to(out).map_err(ContextError::from)?;
        let run = |first: u32, count: u32| first as usize..first as usize + count as usize;
        let range =
            KvRange { layers: run(id.first_layer, id.layers), tokens: run(id.first_token, id.tokens) };
        Ok(self.sequence().export_kv(&range, planes).map_err(ContextError::from)?)
    }

    #[cfg(target_os = "linux")]
    fn share(&self, device: &str) -> Result<Option<OwnedFd>, SourceError> {
        Ok(self.sequence().share_kv(device).map_err(ContextError::from)?)
    }
}
