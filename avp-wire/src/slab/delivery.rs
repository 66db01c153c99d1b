//! The receiving side of a transfer within a session: rounds of slabs, each asked for by an ack.

use super::{Ack, Manifest, Reassembly, Received, SlabError, TransferId};
use crate::frame::Frame;
use crate::limits::Limits;

/// A [`Reassembly`] that says what it lacks. It outlives the connection: a sender that comes back with the same manifest
/// goes on where the last one ended.
#[derive(Clone, Debug)]
pub struct Delivery {
    reassembly: Reassembly,
}

/// What one connection was asked for, and what of it is still on its way. Each connection of a transfer has its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Slab frames that have not come, right or wrong.
    awaited: u32,
    /// The ack that nothing is missing was given.
    is_over: bool,
}

impl Round {
    /// Counts a slab frame that came.
    pub fn count(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
    }
}

impl Delivery {
    /// A transfer of which nothing has come.
    ///
    /// # Errors
    /// As [`Reassembly::new`].
    pub fn new(manifest: Manifest, transfer: TransferId, limits: &Limits) -> Result<Self, SlabError> {
        Ok(Self { reassembly: Reassembly::new(manifest, transfer, limits)? })
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
    pub fn begin(&self, manifest: &Manifest) -> Result<(Ack, Round), SlabError> {
        if manifest != self.reassembly.manifest() {
            return Err(SlabError::OtherManifest);
        }
        let mut round = Round::default();
        let ack = self.ask(&mut round)?;
        Ok((ack, round))
    }

    /// Takes a slab. An error leaves what has come as it was.
    ///
    /// # Errors
    /// As [`Reassembly::insert`].
    pub fn insert(&mut self, frame: &Frame) -> Result<Received, SlabError> {
        self.reassembly.insert(frame)
    }

    /// What to answer now: nothing while slabs of the round are on their way, then what is missing, and once that
    /// nothing is.
    ///
    /// # Errors
    /// `TransferDigestMismatch`: all slabs are there, and are not those that the manifest speaks of.
    pub fn answer(&self, round: &mut Round) -> Result<Option<Ack>, SlabError> {
        if round.is_over || round.awaited > 0 && !self.reassembly.is_complete() {
            return Ok(None);
        }
        self.ask(round).map(Some)
    }

    fn ask(&self, round: &mut Round) -> Result<Ack, SlabError> {
        let ack = Ack::of(&self.reassembly);
        *round = Round { awaited: ack.missing(), is_over: ack.is_complete() };
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
        let (ack, mut round) = delivery.begin(&manifest).unwrap();
        assert_eq!(ack.gaps, [0..4]);
        for frame in &frames[..2] {
            round.count();
            delivery.insert(frame).unwrap();
            assert_eq!(delivery.answer(&mut round), Ok(None));
        }
        round.count();
        assert_eq!(delivery.answer(&mut round), Ok(None));
        round.count();
        delivery.insert(&frames[3]).unwrap();
        assert_eq!(delivery.answer(&mut round).unwrap().unwrap().gaps, [2..3]);
        round.count();
        delivery.insert(&frames[2]).unwrap();
        assert!(delivery.answer(&mut round).unwrap().unwrap().is_complete());
        assert_eq!(delivery.answer(&mut round), Ok(None), "said once");
    }

    // spec: slabs 8.5, slabs 8.6
    #[test]
    fn a_sender_that_comes_back_is_asked_for_what_is_missing_only() {
        let (manifest, id, frames) = transfer();
        let mut delivery = Delivery::new(manifest, id, &Limits::default()).unwrap();
        let (_, mut first) = delivery.begin(&manifest).unwrap();
        first.count();
        delivery.insert(&frames[0]).unwrap();
        let (ack, mut second) = delivery.begin(&manifest).unwrap();
        assert_eq!(ack.gaps, [1..4]);
        let other = Manifest { digest: Some([0; 32]), ..manifest };
        assert_eq!(delivery.begin(&other), Err(SlabError::OtherManifest));
        // What the broken connection still brings is no part of the new one's round.
        first.count();
        delivery.insert(&frames[1]).unwrap();
        assert_eq!((delivery.answer(&mut first), delivery.answer(&mut second)), (Ok(None), Ok(None)));
        for frame in &frames {
            second.count();
            delivery.insert(frame).unwrap();
        }
        assert!(delivery.answer(&mut second).unwrap().unwrap().is_complete());
        assert!(delivery.begin(&manifest).unwrap().0.is_complete(), "delivered twice");
    }

    // spec: slabs 4.3
    #[test]
    fn slabs_of_another_digest_than_the_manifest_s_are_told() {
        let (manifest, id, frames) = transfer();
        let manifest = Manifest { digest: Some([7; 32]), ..manifest };
        let mut delivery = Delivery::new(manifest, id, &Limits::default()).unwrap();
        let (_, mut round) = delivery.begin(&manifest).unwrap();
        for frame in &frames {
            delivery.insert(frame).unwrap();
        }
        assert_eq!(delivery.answer(&mut round), Err(SlabError::TransferDigestMismatch));
    }
}
