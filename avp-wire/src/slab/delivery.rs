//! The receiving side of a transfer within a session: rounds of slabs, each asked for by an ack.

use super::{Ack, Manifest, Reassembly, Received, SlabError, TransferId};
use crate::frame::Frame;
use crate::limits::Limits;

/// A [`Reassembly`] and how many slabs of the last ack are still on their way. It outlives the connection: a sender
/// that comes back with the same manifest goes on where the last one ended.
#[derive(Clone, Debug)]
pub struct Delivery {
    reassembly: Reassembly,
    /// Slab frames that the last ack asked for and that have not come, right or wrong.
    awaited: u32,
}

impl Delivery {
    /// A transfer of which nothing has come.
    ///
    /// # Errors
    /// As [`Reassembly::new`].
    pub fn new(manifest: Manifest, transfer: TransferId, limits: &Limits) -> Result<Self, SlabError> {
        Ok(Self { reassembly: Reassembly::new(manifest, transfer, limits)?, awaited: 0 })
    }

    /// What has come.
    #[must_use]
    pub fn reassembly(&self) -> &Reassembly {
        &self.reassembly
    }

    /// Answers a manifest: the first, or one that says again what the first said.
    ///
    /// # Errors
    /// `OtherManifest` if it says something else; `TransferDigestMismatch` as [`Reassembly::finish`].
    pub fn begin(&mut self, manifest: &Manifest) -> Result<Ack, SlabError> {
        if manifest != self.reassembly.manifest() {
            return Err(SlabError::OtherManifest);
        }
        self.ask()
    }

    /// Takes a slab. An error leaves what has come as it was.
    ///
    /// # Errors
    /// As [`Reassembly::insert`].
    pub fn insert(&mut self, frame: &Frame) -> Result<Received, SlabError> {
        self.lost();
        self.reassembly.insert(frame)
    }

    /// Counts a slab frame that came and could not be read.
    pub fn lost(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
    }

    /// What to answer now: nothing while slabs of the last ack are on their way, then what is missing.
    ///
    /// # Errors
    /// `TransferDigestMismatch`: all slabs are there, and are not those that the manifest speaks of.
    pub fn answer(&mut self) -> Result<Option<Ack>, SlabError> {
        if self.awaited > 0 && !self.reassembly.is_complete() {
            return Ok(None);
        }
        self.ask().map(Some)
    }

    fn ask(&mut self) -> Result<Ack, SlabError> {
        let ack = Ack::of(&self.reassembly);
        self.awaited = ack.missing();
        if ack.is_complete() {
            self.reassembly.finish()?;
        }
        Ok(ack)
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use super::*;
    use crate::kv::{KvDtype, KvHeader, KvPayload};
    use crate::metadata::Metadata;

    fn transfer() -> (Manifest, TransferId, Vec<Frame>) {
        let kv = KvHeader { num_layers: 4, num_kv_heads: 1, head_dim: 2, seq_len: 3, dtype: KvDtype::F16 };
        let mut payload: Vec<u8> = (0..=u8::MAX).cycle().take(kv.payload_len().unwrap()).collect();
        kv.write_to(&mut payload).unwrap();
        let cache = KvPayload::parse(payload.into()).unwrap();
        let (manifest, id) = (Manifest::new(kv, 1, 3), "t".parse::<TransferId>().unwrap());
        let frame = |slab| {
            let mut out = vec![0; manifest.slab_header(&slab).payload_len().unwrap()];
            manifest.extract(&cache, &slab, &mut out).unwrap();
            manifest.slab_frame(Metadata::default(), &id, &slab, out.into()).unwrap()
        };
        (manifest, id.clone(), manifest.slabs().map(frame).collect())
    }

    // spec: slabs 8.1, slabs 8.4
    #[test]
    fn a_lost_slab_is_asked_for_again_once_the_others_have_come() {
        let (manifest, id, frames) = transfer();
        let mut delivery = Delivery::new(manifest, id, &Limits::default()).unwrap();
        assert_eq!(delivery.begin(&manifest).unwrap().gaps, [0..4]);
        for frame in &frames[..2] {
            delivery.insert(frame).unwrap();
            assert_eq!(delivery.answer(), Ok(None));
        }
        delivery.lost();
        assert_eq!(delivery.answer(), Ok(None));
        delivery.insert(&frames[3]).unwrap();
        assert_eq!(delivery.answer().unwrap().unwrap().gaps, [2..3]);
        delivery.insert(&frames[2]).unwrap();
        assert!(delivery.answer().unwrap().unwrap().is_complete());
    }

    // spec: slabs 8.5, slabs 8.6
    #[test]
    fn a_sender_that_comes_back_is_asked_for_what_is_missing_only() {
        let (manifest, id, frames) = transfer();
        let mut delivery = Delivery::new(manifest, id, &Limits::default()).unwrap();
        delivery.begin(&manifest).unwrap();
        delivery.insert(&frames[0]).unwrap();
        assert_eq!(delivery.begin(&manifest).unwrap().gaps, [1..4]);
        let other = Manifest { digest: Some([0; 32]), ..manifest };
        assert_eq!(delivery.begin(&other), Err(SlabError::OtherManifest));
        for frame in &frames {
            delivery.insert(frame).unwrap();
        }
        assert!(delivery.answer().unwrap().unwrap().is_complete());
        assert!(delivery.begin(&manifest).unwrap().is_complete(), "delivered twice");
    }

    // spec: slabs 4.3
    #[test]
    fn slabs_of_another_digest_than_the_manifest_s_are_told() {
        let (manifest, id, frames) = transfer();
        let manifest = Manifest { digest: Some([7; 32]), ..manifest };
        let mut delivery = Delivery::new(manifest, id, &Limits::default()).unwrap();
        delivery.begin(&manifest).unwrap();
        for frame in &frames {
            delivery.insert(frame).unwrap();
        }
        assert_eq!(delivery.answer(), Err(SlabError::TransferDigestMismatch));
    }
}
