//! Transfers in slabs: any manifest, and a reassembly as a sequence of operations.

use alloc::borrow::ToOwned;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use bytes::Bytes;

use super::{Choices, limits};
use crate::ext;
use crate::slab::{Manifest, Reassembly, Received, SlabError, SlabId, TransferId, transfer_digest};
use crate::{Frame, KvDtype, KvHeader, KvPayload, Limits, Metadata};

/// A manifest that is taken is written back as it was, and its slabs and their indices are one to one.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::decode(data) else { return };
    assert_eq!(manifest.encode(), data);
    let count = manifest.slab_count();
    assert!(count > 0);
    let last = u32::try_from(count - 1).ok();
    for index in [Some(0), Some(1), last.map(|last| last / 2), last].into_iter().flatten() {
        let Some(slab) = manifest.slab(index) else {
            assert!(u64::from(index) >= count);
            continue;
        };
        assert_eq!(manifest.index(&slab), Some(index));
        assert!(slab.layers > 0 && slab.first_layer + slab.layers <= manifest.kv.num_layers);
        assert!(slab.tokens > 0 && slab.first_token + slab.tokens <= manifest.kv.seq_len);
    }
    assert_eq!(last.and_then(|last| manifest.slab(last.checked_add(1)?)), None);
    let Ok(transfer) = "t".parse() else { return };
    let reassembly = Reassembly::new(manifest, transfer, &limits(Limits::default()));
    assert_eq!(reassembly.is_ok(), count <= u64::from(Limits::default().max_slabs));
}

/// The bytes choose a cache, a grid and operations: slabs as they are, twice, damaged, forged, of another transfer.
/// After each the reassembly says what a list of digests says, and at the end the cache is the sender's.
pub fn slabs(data: &[u8]) {
    let mut choices = Choices(data);
    let Some(mut transfer) = Transfer::begin(&mut choices) else { return };
    while !choices.is_empty() {
        let (op, index) = (choices.byte(), choices.from(0, transfer.subject.slab_count()));
        transfer.step(op, index, &mut choices);
        transfer.compare();
    }
    transfer.end();
}

/// A reassembly, and beside it what it should know.
struct Transfer {
    manifest: Manifest,
    id: TransferId,
    cache: KvPayload,
    subject: Reassembly,
    known: Vec<Option<[u8; 32]>>,
    copy: Vec<u8>,
}

impl Transfer {
    fn begin(choices: &mut Choices<'_>) -> Option<Self> {
        let kv = KvHeader {
            num_layers: choices.from(1, 4),
            num_kv_heads: choices.from(1, 3),
            head_dim: choices.from(1, 3),
            seq_len: choices.from(1, 9),
            dtype: if choices.byte().is_multiple_of(2) { KvDtype::F16 } else { KvDtype::F32 },
        };
        let mut manifest = Manifest::new(kv, choices.from(1, 5), choices.from(1, 10));
        let mut payload: Vec<u8> = (0..=u8::MAX).cycle().take(kv.payload_len().ok()?).collect();
        kv.write_to(&mut payload).ok()?;
        let cache = KvPayload::parse(payload.into()).ok()?;
        let mut copy = vec![0; cache.as_bytes().len()];
        kv.write_to(&mut copy).ok()?;
        let id: TransferId = "fuzz".parse().ok()?;
        if choices.byte().is_multiple_of(2) {
            let digest = |slab| Some(blake3::hash(&extract(&manifest, &cache, &slab)?).into());
            let digests: Option<Vec<[u8; 32]>> = manifest.slabs().map(digest).collect();
            manifest.digest = Some(transfer_digest(&digests?));
        }
        let read = Manifest::from_frame(&manifest.to_frame(Metadata::default(), &id));
        assert_eq!(read, Ok((manifest, id.clone())));
        let subject = Reassembly::new(manifest, id.clone(), &limits(Limits::default())).ok()?;
        let known = vec![None; usize::try_from(subject.slab_count()).ok()?];
        Some(Self { manifest, id, cache, subject, known, copy })
    }

    fn step(&mut self, op: u8, index: u32, choices: &mut Choices<'_>) {
        let Some(mut frame) = self.sound(index) else { return };
        let received = match op % 8 {
            0 => self.damaged(&mut frame, choices, false),
            1 => self.damaged(&mut frame, choices, true),
            2 => {
                frame.metadata.extra.insert(ext::TRANSFER.to_owned(), "other".to_owned());
                let received = self.subject.insert(&frame);
                assert_eq!(received, Err(SlabError::OtherTransfer));
                received
            }
            3 => {
                frame.metadata.extra.insert(ext::CODEC.to_owned(), "int8".to_owned());
                let received = self.subject.insert(&frame);
                assert_eq!(received, Err(SlabError::UnknownCodec));
                received
            }
            4 => self.renamed(&mut frame, choices),
            5 => self.arbitrary(choices),
            _ => {
                let received = self.subject.insert(&frame);
                self.expect_taken(&received, index, &frame);
                received
            }
        };
        let Ok(Received::New(slab)) = received else { return };
        assert_eq!(self.manifest.place(&slab.id, &slab.kv, &mut self.copy), Ok(()));
        if let Some(known) = usize::try_from(slab.index).ok().and_then(|at| self.known.get_mut(at)) {
            assert_eq!(*known, None, "a slab was new twice");
            *known = Some(slab.digest);
        }
    }

    /// The frame that a sound sender makes.
    fn sound(&self, index: u32) -> Option<Frame> {
        let slab = self.manifest.slab(index)?;
        let payload = extract(&self.manifest, &self.cache, &slab)?;
        self.manifest.slab_frame(Metadata::default(), &self.id, &slab, payload.into()).ok()
    }

    /// A slab whose digest is right: new, a duplicate, or a contradiction of the one that is known.
    fn expect_taken(&self, received: &Result<Received, SlabError>, index: u32, frame: &Frame) {
        let digest: [u8; 32] = blake3::hash(&frame.payload).into();
        let known = usize::try_from(index).ok().and_then(|at| self.known.get(at).copied()).flatten();
        match (known, received) {
            (None, Ok(Received::New(slab))) => assert_eq!((slab.index, slab.digest), (index, digest)),
            (Some(known), Ok(Received::Duplicate(_))) => assert_eq!(known, digest),
            (Some(known), Err(SlabError::Contradiction(_))) => assert_ne!(known, digest),
            other => assert!(matches!(other, (None, Ok(Received::New(_)))), "{other:?}"),
        }
    }

    /// One byte of the planes is another; the digest is then the old one, or that of the new bytes.
    fn damaged(
        &mut self,
        frame: &mut Frame,
        choices: &mut Choices<'_>,
        forged: bool,
    ) -> Result<Received, SlabError> {
        let index = self.index_of(frame);
        let mut payload = frame.payload.to_vec();
        let planes = payload.len() - KvHeader::SIZE;
        let at = KvHeader::SIZE + usize::from(choices.byte()) % planes;
        if let Some(byte) = payload.get_mut(at) {
            *byte ^= choices.byte() | 1;
        }
        frame.payload = payload.into();
        if forged {
            let digest = blake3::hash(&frame.payload).to_hex();
            frame.metadata.extra.insert(ext::BLAKE3.to_owned(), digest.as_str().to_owned());
        }
        let received = self.subject.insert(frame);
        if forged {
            self.expect_taken(&received, index, frame);
        } else {
            assert!(matches!(received, Err(SlabError::DigestMismatch(_))), "{received:?}");
        }
        received
    }

    /// A slab that says that it is another: a cell of the grid or none.
    fn renamed(&mut self, frame: &mut Frame, choices: &mut Choices<'_>) -> Result<Received, SlabError> {
        let name = SlabId {
            first_layer: choices.from(0, 6),
            layers: choices.from(1, 6),
            first_token: choices.from(0, 10),
            tokens: choices.from(1, 10),
        };
        frame.metadata.extra.insert(ext::SLAB.to_owned(), name.to_string());
        let received = self.subject.insert(frame);
        let header = KvHeader::decode(&frame.payload);
        match self.manifest.index(&name) {
            None => assert_eq!(received, Err(SlabError::OffGrid(name))),
            Some(index) if header == Ok(self.manifest.slab_header(&name)) => {
                self.expect_taken(&received, index, frame);
            }
            Some(_) => assert!(matches!(received, Err(SlabError::Header { .. })), "{received:?}"),
        }
        received
    }

    /// Any metadata over any payload.
    fn arbitrary(&mut self, choices: &mut Choices<'_>) -> Result<Received, SlabError> {
        let len = usize::from(choices.byte());
        let metadata = Metadata::decode(choices.bytes(len), &Limits::default()).unwrap_or_default();
        let len = usize::from(choices.byte());
        self.subject.insert(&Frame::new(metadata, Bytes::copy_from_slice(choices.bytes(len))))
    }

    fn index_of(&self, frame: &Frame) -> u32 {
        let slab = frame.metadata.extra.get(ext::SLAB).and_then(|slab| slab.parse().ok());
        slab.and_then(|slab| self.manifest.index(&slab)).unwrap_or(u32::MAX)
    }

    /// The reassembly knows what came, and nothing else.
    fn compare(&self) {
        let there = |index: u32| {
            usize::try_from(index).ok().and_then(|at| self.known.get(at)).is_some_and(Option::is_some)
        };
        let count = self.subject.slab_count();
        let missing: Vec<u32> = (0..count).filter(|&index| !there(index)).collect();
        assert!((0..count + 2).all(|index| self.subject.has(index) == there(index)));
        assert!(self.subject.gaps().flatten().eq(missing.iter().copied()));
        let (gaps, runs) = (self.subject.gaps().count(), missing.chunk_by(|a, b| a + 1 == *b).count());
        assert_eq!(gaps, runs, "gaps that touch are one");
        assert_eq!(self.subject.resume_point(), missing.first().copied().unwrap_or(count));
        assert_eq!(usize::try_from(count - self.subject.arrived()), Ok(missing.len()));
        assert_eq!(self.subject.is_complete(), missing.is_empty());
        for layer in 0..self.manifest.kv.num_layers + 1 {
            let of_layer =
                |slab: &SlabId| (slab.first_layer..slab.first_layer + slab.layers).contains(&layer);
            let mut slabs = self.manifest.slabs().zip(0..).filter(|(slab, _)| of_layer(slab)).peekable();
            let complete = slabs.peek().is_some() && slabs.all(|(_, index)| there(index));
            assert_eq!(self.subject.layer_is_complete(layer), complete);
        }
    }

    fn end(self) {
        let missing = self.known.iter().filter(|known| known.is_none()).count();
        let digest = transfer_digest(self.known.iter().flatten());
        match self.subject.finish() {
            Err(SlabError::Missing { count, first }) => {
                assert!(usize::try_from(count) == Ok(missing) && missing > 0);
                assert_eq!(first, self.subject.resume_point());
            }
            Err(error) => {
                assert_eq!(error, SlabError::TransferDigestMismatch);
                assert!(missing == 0 && self.manifest.digest.is_some_and(|stated| stated != digest));
            }
            Ok(found) => {
                assert_eq!((missing, found), (0, digest));
                if self.manifest.digest.is_some() {
                    assert_eq!(&self.copy, self.cache.as_bytes());
                }
            }
        }
    }
}

fn extract(manifest: &Manifest, cache: &KvPayload, slab: &SlabId) -> Option<Vec<u8>> {
    let mut payload = vec![0; manifest.slab_header(slab).payload_len().ok()?];
    manifest.extract(cache, slab, &mut payload).ok()?;
    Some(payload)
}
