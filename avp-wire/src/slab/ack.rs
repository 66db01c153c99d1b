//! What a receiver says of a transfer: which slabs it still needs (docs/spec/slabs.md, 8).

use alloc::borrow::ToOwned;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Manifest, Reassembly, SlabError, TransferId};
use crate::ext::{self, FrameKind};
use crate::frame::Frame;
use crate::metadata::{Metadata, Mode, PayloadType};

/// The slabs that a receiver lacks, as runs of indices. None: it has them all, and their digests agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ack {
    /// Ascending, none empty, none touching the next.
    pub gaps: Vec<Range<u32>>,
}

impl Ack {
    /// What `reassembly` lacks.
    #[must_use]
    pub fn of(reassembly: &Reassembly) -> Self {
        Self { gaps: reassembly.gaps().collect() }
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.gaps.is_empty()
    }

    /// Slabs that are missing.
    #[must_use]
    pub fn missing(&self) -> u32 {
        self.gaps.iter().fold(0, |sum, gap| sum.saturating_add(gap.end.saturating_sub(gap.start)))
    }

    /// Their indices, ascending.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.gaps.iter().cloned().flatten()
    }

    /// Reads the payload of an ack for a transfer of `manifest`.
    ///
    /// # Errors
    /// [`SlabError::Gaps`] for runs that are empty, not ascending, touch one another, or leave the grid.
    pub fn decode(payload: &[u8], manifest: &Manifest) -> Result<Self, SlabError> {
        let (runs, rest) = payload.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(SlabError::Gaps);
        }
        let mut gaps = Vec::with_capacity(runs.len());
        let mut free = 0;
        for &[f0, f1, f2, f3, c0, c1, c2, c3] in runs {
            let start = u32::from_le_bytes([f0, f1, f2, f3]);
            let end = start.checked_add(u32::from_le_bytes([c0, c1, c2, c3])).ok_or(SlabError::Gaps)?;
            let on_grid = u64::from(end) <= manifest.slab_count();
            if start < free || start >= end || !on_grid {
                return Err(SlabError::Gaps);
            }
            gaps.push(start..end);
            // The next run begins beyond the one slab at least that parts them.
            free = end.saturating_add(1);
        }
        Ok(Self { gaps })
    }

    /// The payload of an ack.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let runs = self.gaps.iter().map(|gap| [gap.start, gap.end.saturating_sub(gap.start)]);
        runs.flatten().flat_map(u32::to_le_bytes).collect()
    }

    /// Reads an ack frame of `transfer`.
    ///
    /// # Errors
    /// [`SlabError::NotAck`], [`SlabError::OtherTransfer`], and those of [`decode`](Self::decode).
    pub fn from_frame(frame: &Frame, manifest: &Manifest, transfer: &TransferId) -> Result<Self, SlabError> {
        // A refusal is of the same kind, and in JSON_MODE.
        if frame.kind() != Ok(Some(FrameKind::Ack)) || frame.metadata.mode != Mode::Latent {
            return Err(SlabError::NotAck);
        }
        if frame.metadata.extra.get(ext::TRANSFER).map(|id| id.as_str()) != Some(transfer.as_str()) {
            return Err(SlabError::OtherTransfer);
        }
        Self::decode(&frame.payload, manifest)
    }

    /// The ack frame. `metadata` says between whom it travels.
    #[must_use]
    pub fn to_frame(&self, metadata: Metadata, transfer: &TransferId) -> Frame {
        let mut metadata = Metadata {
            payload_type: PayloadType::HiddenState,
            mode: Mode::Latent,
            tensor_shape: Vec::new(),
            ..metadata
        };
        metadata.extra.insert(ext::KIND.to_owned(), FrameKind::Ack.as_str().to_owned());
        metadata.extra.insert(ext::TRANSFER.to_owned(), transfer.to_string());
        Frame::new(metadata, self.encode())
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;
    use crate::kv::{KvDtype, KvHeader};

    fn manifest() -> Manifest {
        let kv = KvHeader { num_layers: 10, num_kv_heads: 1, head_dim: 2, seq_len: 3, dtype: KvDtype::F16 };
        Manifest::new(kv, 1, 3)
    }

    // spec: slabs 8.2
    #[test]
    fn an_ack_is_read_as_written() {
        let transfer: TransferId = "t1".parse().unwrap();
        for gaps in [vec![], vec![0..10], vec![0..1, 2..3, 9..10]] {
            let ack = Ack { gaps };
            let frame = ack.to_frame(Metadata::default(), &transfer);
            assert_eq!(Ack::from_frame(&frame, &manifest(), &transfer), Ok(ack.clone()));
            assert_eq!(ack.indices().count(), usize::try_from(ack.missing()).unwrap());
        }
        let frame = Ack::default().to_frame(Metadata::default(), &transfer);
        let other = "t2".parse().unwrap();
        assert_eq!(Ack::from_frame(&frame, &manifest(), &other), Err(SlabError::OtherTransfer));
        let manifest_frame = manifest().to_frame(Metadata::default(), &transfer);
        assert_eq!(Ack::from_frame(&manifest_frame, &manifest(), &transfer), Err(SlabError::NotAck));
    }

    // spec: slabs 8.3
    #[test]
    fn runs_that_are_not_gaps_of_the_grid_are_refused() {
        let runs =
            |runs: &[[u32; 2]]| runs.iter().flatten().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        for wrong in [
            runs(&[[0, 0]]),
            runs(&[[0, 11]]),
            runs(&[[10, 1]]),
            runs(&[[u32::MAX, 2]]),
            runs(&[[2, 1], [0, 1]]),
            runs(&[[0, 2], [1, 2]]),
            runs(&[[0, 1], [1, 1]]),
            vec![0; 7],
        ] {
            assert_eq!(Ack::decode(&wrong, &manifest()), Err(SlabError::Gaps), "{wrong:?}");
        }
    }
}
