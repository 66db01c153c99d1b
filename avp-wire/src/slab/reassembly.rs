//! Slabs as they come: checked, counted once, and what is missing.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Manifest, SlabError, SlabId, TransferId};
use crate::ext::{self, FrameKind};
use crate::frame::Frame;
use crate::kv::KvPayload;
use crate::limits::Limits;

/// The digest of a transfer: BLAKE3 over the digests of its slabs, by index.
#[must_use]
pub fn transfer_digest<'a>(slabs: impl IntoIterator<Item = &'a [u8; 32]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for digest in slabs {
        hasher.update(digest);
    }
    hasher.finalize().into()
}

/// The receiving side of a transfer in slabs. It keeps 33 bytes for each slab up to the last that came, and no payload.
#[derive(Clone, Debug)]
pub struct Reassembly {
    manifest: Manifest,
    transfer: TransferId,
    verify_digest: bool,
    count: u32,
    arrived: u32,
    /// No slab below this index is missing.
    resume: u32,
    /// By index, as far as slabs have come.
    digests: Vec<Option<[u8; 32]>>,
}

/// What became of a slab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It was missing; here it is.
    New(Slab),
    /// It was there already, with the same digest; nothing changes.
    Duplicate(SlabId),
}

/// A slab that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slab {
    /// Its place in the order of the transfer.
    pub index: u32,
    /// Its layers and tokens.
    pub id: SlabId,
    /// Its planes, `[kv_heads, tokens of the slab, head_dim]`, as views of the frame they came in.
    pub kv: KvPayload,
    /// BLAKE3 of its payload; as announced, where the limits say not to verify it.
    pub digest: [u8; 32],
}

impl Reassembly {
    /// A transfer of which nothing has come.
    ///
    /// # Errors
    /// `ZeroCount`, `TooManySlabs`.
    pub fn new(manifest: Manifest, transfer: TransferId, limits: &Limits) -> Result<Self, SlabError> {
        if manifest.has_zero_count() {
            return Err(SlabError::ZeroCount);
        }
        let (count, max) = (manifest.slab_count(), limits.max_slabs);
        let count = u32::try_from(count).ok().filter(|&count| count <= max);
        let count = count.ok_or(SlabError::TooManySlabs { count: manifest.slab_count(), max })?;
        let verify_digest = limits.verify_digest;
        Ok(Self { manifest, transfer, verify_digest, count, arrived: 0, resume: 0, digests: Vec::new() })
    }

    /// What the transfer consists of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Its name.
    #[must_use]
    pub fn transfer(&self) -> &TransferId {
        &self.transfer
    }

    /// Takes a slab. An error leaves everything as it was: the slab is still missing, or still there.
    ///
    /// # Errors
    /// `NotSlab`, `OtherTransfer`, `UnknownCodec`, `OffGrid`, `Header`, `Kv`, `Extension`, `DigestMismatch`,
    /// `Contradiction`.
    pub fn insert(&mut self, frame: &Frame) -> Result<Received, SlabError> {
        let (index, slab) = self.read(frame)?;
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        if let Some(Some(known)) = self.digests.get(at) {
            return match *known == slab.digest {
                true => Ok(Received::Duplicate(slab.id)),
                false => Err(SlabError::Contradiction(slab.id)),
            };
        }
        if self.digests.len() <= at {
            self.digests.resize(at.saturating_add(1), None);
        }
        if let Some(place) = self.digests.get_mut(at) {
            *place = Some(slab.digest);
            self.arrived = self.arrived.saturating_add(1);
        }
        while self.has(self.resume) {
            self.resume = self.resume.saturating_add(1);
        }
        Ok(Received::New(slab))
    }

    /// Whether the slab of an index is there.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        usize::try_from(index).ok().and_then(|at| self.digests.get(at)).is_some_and(Option::is_some)
    }

    /// Slabs that are there.
    #[must_use]
    pub fn arrived(&self) -> u32 {
        self.arrived
    }

    /// Slabs of the transfer.
    #[must_use]
    pub fn slab_count(&self) -> u32 {
        self.count
    }

    /// The lowest index that is missing: where a sender that knows nothing else goes on. The count once all are there.
    #[must_use]
    pub fn resume_point(&self) -> u32 {
        self.resume
    }

    /// The runs of indices that are missing, ascending.
    pub fn gaps(&self) -> impl Iterator<Item = Range<u32>> {
        let mut next = self.resume;
        core::iter::from_fn(move || {
            let start = (next..self.count).find(|&index| !self.has(index))?;
            let end = (start..self.count).find(|&index| self.has(index)).unwrap_or(self.count);
            next = end;
            Some(start..end)
        })
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.arrived == self.count
    }

    /// Whether all tokens of a layer are there, so that it can be injected: a look at each of its slabs.
    #[must_use]
    pub fn layer_is_complete(&self, layer: u32) -> bool {
        let blocks = self.manifest.token_blocks();
        let Some(row) = layer.checked_div(self.manifest.slab_layers) else { return false };
        let Some(first) = row.checked_mul(blocks).filter(|_| layer < self.manifest.kv.num_layers) else {
            return false;
        };
        (first..first.saturating_add(blocks)).all(|index| self.has(index))
    }

    /// Ends the transfer and gives its digest, which the sender has too.
    ///
    /// # Errors
    /// `Missing`; `TransferDigestMismatch` if the manifest states another digest.
    pub fn finish(&self) -> Result<[u8; 32], SlabError> {
        if !self.is_complete() {
            let count = self.count.saturating_sub(self.arrived);
            return Err(SlabError::Missing { count, first: self.resume });
        }
        let digest = transfer_digest(self.digests.iter().flatten());
        match self.manifest.digest {
            Some(stated) if stated != digest => Err(SlabError::TransferDigestMismatch),
            _ => Ok(digest),
        }
    }

    /// Checks everything about a slab but whether it was there before.
    fn read(&self, frame: &Frame) -> Result<(u32, Slab), SlabError> {
        let extra = &frame.metadata.extra;
        if frame.kind() != Ok(Some(FrameKind::Slab)) {
            return Err(SlabError::NotSlab);
        }
        if extra.get(ext::TRANSFER).map(|id| id.as_str()) != Some(self.transfer.as_str()) {
            return Err(SlabError::OtherTransfer);
        }
        if extra.contains_key(ext::CODEC) {
            return Err(SlabError::UnknownCodec);
        }
        let id: SlabId = extra.get(ext::SLAB).ok_or(SlabError::NotSlab)?.parse()?;
        let index = self.manifest.index(&id).ok_or(SlabError::OffGrid(id))?;
        let kv = self.manifest.check(&id, frame.kv()?)?;
        let announced = extra.get(ext::BLAKE3).map(|hex| ext::parse_hash(ext::BLAKE3, hex)).transpose()?;
        let digest = match announced {
            Some(digest) if !self.verify_digest => digest,
            _ => blake3::hash(kv.as_bytes()).into(),
        };
        if announced.is_some_and(|announced| announced != digest) {
            return Err(SlabError::DigestMismatch(id));
        }
        Ok((index, Slab { index, id, kv, digest }))
    }
}
