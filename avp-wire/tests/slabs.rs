//! Transfers in slabs (docs/spec/slabs.md).

use avp_wire::slab::{Manifest, Reassembly, Received, SlabError, SlabId, TransferId, transfer_digest};
use avp_wire::{
    Bytes, EncodeOptions, ErrorCode, Frame, KvDtype, KvError, KvHeader, KvPayload, Limits, Metadata,
    PayloadType, ext,
};
use proptest::prelude::*;

fn cache(num_layers: u32, num_kv_heads: u32, seq_len: u32, head_dim: u32, dtype: KvDtype) -> KvPayload {
    let header = KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype };
    let mut payload: Vec<u8> = (0..header.payload_len().unwrap()).map(|n| (n * 31 % 251) as u8).collect();
    header.write_to(&mut payload).unwrap();
    KvPayload::parse(payload.into()).unwrap()
}

fn transfer() -> TransferId {
    "t-1".parse().unwrap()
}

fn slab_frame(manifest: &Manifest, cache: &KvPayload, index: u32) -> Frame {
    let id = manifest.slab(index).unwrap();
    let mut payload = vec![0; manifest.slab_header(&id).payload_len().unwrap()];
    manifest.extract(cache, &id, &mut payload).unwrap();
    manifest.slab_frame(Metadata::default(), &transfer(), &id, payload.into()).unwrap()
}

/// 3 layers by 5 tokens in slabs of 2 by 2: two rows of three.
fn uneven() -> (KvPayload, Manifest, Vec<Frame>, Reassembly) {
    let cache = cache(3, 2, 5, 4, KvDtype::F16);
    let manifest = Manifest::new(*cache.header(), 2, 2);
    let frames = (0..6).map(|index| slab_frame(&manifest, &cache, index)).collect();
    let reassembly = Reassembly::new(manifest, transfer(), &Limits::default()).unwrap();
    (cache, manifest, frames, reassembly)
}

fn gaps(reassembly: &Reassembly) -> Vec<(u32, u32)> {
    reassembly.gaps().map(|gap| (gap.start, gap.end)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 5 } else { 256 }, ..ProptestConfig::default() })]

    // spec: slabs 5.1
    #[test]
    fn any_grid_in_any_order_gives_the_cache_back(
        counts in [1..5_u32, 1..4, 1..9, 1..4], grid in [1..6_u32, 1..11], dtype in 0..3_u8,
        order in any::<u64>(), state_digest in any::<bool>(),
    ) {
        let [layers, heads, tokens, dim] = counts;
        let cache = cache(layers, heads, tokens, dim, KvDtype::from_byte(dtype).unwrap());
        let mut manifest = Manifest::new(*cache.header(), grid[0], grid[1]);
        let count = u32::try_from(manifest.slab_count()).unwrap();
        let frames: Vec<Frame> = (0..count).map(|index| slab_frame(&manifest, &cache, index)).collect();
        let digests: Vec<[u8; 32]> = frames.iter().map(|frame| *blake3::hash(&frame.payload).as_bytes()).collect();
        manifest.digest = state_digest.then(|| transfer_digest(&digests));

        let mut reassembly = Reassembly::new(manifest, transfer(), &Limits::default()).unwrap();
        let mut copy = vec![0; cache.as_bytes().len()];
        cache.header().write_to(&mut copy).unwrap();
        let mut left: Vec<u32> = (0..count).collect();
        let mut state = order;
        while !left.is_empty() {
            prop_assert_eq!(reassembly.resume_point(), *left.iter().min().unwrap());
            let missing: Vec<u32> = reassembly.gaps().flatten().collect();
            let mut sorted = left.clone();
            sorted.sort_unstable();
            prop_assert_eq!(missing, sorted);
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = left.swap_remove((state >> 33) as usize % left.len());
            let Received::New(slab) = reassembly.insert(&frames[index as usize]).unwrap() else { panic!() };
            prop_assert_eq!((slab.index, manifest.index(&slab.id)), (index, Some(index)));
            manifest.place(&slab.id, &slab.kv, &mut copy).unwrap();
        }
        prop_assert_eq!(reassembly.finish().unwrap(), transfer_digest(&digests));
        prop_assert_eq!(&copy[..], &cache.as_bytes()[..]);
        prop_assert_eq!(manifest.slabs().count(), digests.len());
    }

    #[test]
    fn slabs_of_about_a_length_do_not_exceed_it(counts in [1..40_u32, 1..9, 1..5000, 1..129], slab_len in 1..1_u64 << 24) {
        let [num_layers, num_kv_heads, seq_len, head_dim] = counts;
        let kv = KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype: KvDtype::Bf16 };
        let manifest = Manifest::with_slab_len(kv, slab_len);
        let planes = manifest.slab_header(&manifest.slab(0).unwrap()).payload_len().unwrap() - KvHeader::SIZE;
        let one_token = 4 * u64::from(num_kv_heads) * u64::from(head_dim);
        prop_assert!(planes as u64 <= slab_len.max(one_token));
        prop_assert!(manifest.slab_tokens >= seq_len || manifest.slab_layers == 1);
    }
}

#[test]
fn layers_can_be_injected_once_all_their_tokens_are_there() {
    let (.., frames, mut reassembly) = uneven();
    let complete = |reassembly: &Reassembly| [0, 1, 2, 3].map(|layer| reassembly.layer_is_complete(layer));
    for (index, expected) in [(2, [false; 4]), (0, [false; 4]), (1, [true, true, false, false])] {
        reassembly.insert(&frames[index]).unwrap();
        assert_eq!(complete(&reassembly), expected, "after {index}");
    }
    for frame in &frames[3..] {
        reassembly.insert(frame).unwrap();
    }
    assert_eq!(complete(&reassembly), [true, true, true, false]);
}

// spec: slabs 5.4, slabs 6.1
#[test]
fn gaps_and_the_resume_point_are_known_at_any_time() {
    let (.., frames, mut reassembly) = uneven();
    assert_eq!((gaps(&reassembly), reassembly.resume_point()), (vec![(0, 6)], 0));
    reassembly.insert(&frames[4]).unwrap();
    reassembly.insert(&frames[0]).unwrap();
    assert_eq!((gaps(&reassembly), reassembly.resume_point()), (vec![(1, 4), (5, 6)], 1));
    assert_eq!(reassembly.finish(), Err(SlabError::Missing { count: 4, first: 1 }));
    for index in [1, 2, 3, 5] {
        reassembly.insert(&frames[index]).unwrap();
    }
    assert_eq!((gaps(&reassembly), reassembly.resume_point()), (vec![], 6));
    assert!(reassembly.is_complete());
}

// spec: slabs 5.2, slabs 5.3
#[test]
fn a_slab_that_comes_twice_changes_nothing() {
    let (cache, manifest, frames, mut reassembly) = uneven();
    reassembly.insert(&frames[3]).unwrap();
    let id = manifest.slab(3).unwrap();
    assert_eq!(reassembly.insert(&frames[3]), Ok(Received::Duplicate(id)));
    assert_eq!(reassembly.arrived(), 1);
    let mut other = slab_frame(&manifest, &cache, 3).payload.to_vec();
    *other.last_mut().unwrap() ^= 1;
    let other = manifest.slab_frame(Metadata::default(), &transfer(), &id, other.into()).unwrap();
    assert_eq!(reassembly.insert(&other), Err(SlabError::Contradiction(id)));
    assert_eq!(reassembly.insert(&frames[3]), Ok(Received::Duplicate(id)));
}

// spec: slabs 3.1, slabs 3.2, slabs 3.3, slabs 3.4, slabs 3.6, slabs 4.1, slabs 4.4, slabs 5.7
#[test]
fn slabs_that_do_not_belong_are_refused_and_leave_no_trace() {
    let (cache, manifest, frames, mut reassembly) = uneven();
    let id = manifest.slab(0).unwrap();
    let changed = |change: &dyn Fn(&mut Frame)| {
        let mut frame = frames[0].clone();
        change(&mut frame);
        frame
    };
    let set = |key: &str, value: &str| {
        let (key, value) = (key.to_owned(), value.to_owned());
        changed(&|frame| drop(frame.metadata.extra.insert(key.clone(), value.clone())))
    };
    let unset = |key: &str| changed(&|frame| drop(frame.metadata.extra.remove(key)));
    let smaller = Manifest::new(*self::cache(3, 2, 5, 2, KvDtype::F16).header(), 2, 2);
    let header = smaller.slab_header(&id);
    let mut payload = vec![0; header.payload_len().unwrap()];
    header.write_to(&mut payload).unwrap();
    let another_shape = changed(&|frame| frame.payload = payload.clone().into());
    for (frame, expected) in [
        (Frame::default(), ErrorCode::SlabMismatch),
        (changed(&|frame| frame.metadata.payload_type = PayloadType::HiddenState), ErrorCode::NotKvCache),
        (unset(ext::KIND), ErrorCode::SlabMismatch),
        (set(ext::KIND, "text"), ErrorCode::SlabMismatch),
        (set(ext::KIND, "slap"), ErrorCode::SlabMismatch),
        (set(ext::TRANSFER, "t-2"), ErrorCode::SlabMismatch),
        (unset(ext::TRANSFER), ErrorCode::SlabMismatch),
        (unset(ext::SLAB), ErrorCode::SlabMismatch),
        (set(ext::SLAB, "L0+2,T0+02"), ErrorCode::InvalidExtension),
        (set(ext::SLAB, "L0+1,T0+2"), ErrorCode::SlabMismatch),
        (set(ext::SLAB, "L1+2,T0+2"), ErrorCode::SlabMismatch),
        (set(ext::SLAB, "L4+2,T0+2"), ErrorCode::SlabMismatch),
        // A cell of the grid, but with the bytes of another.
        (set(ext::SLAB, "L2+1,T4+1"), ErrorCode::SlabMismatch),
        (another_shape, ErrorCode::SlabMismatch),
        (set(ext::BLAKE3, &"0".repeat(64)), ErrorCode::DigestMismatch),
        (set(ext::BLAKE3, "0"), ErrorCode::InvalidExtension),
        (set(ext::CODEC, "q8"), ErrorCode::UnknownCodec),
        (changed(&|frame| frame.payload = Bytes::from_static(b"short")), ErrorCode::KvTruncated),
        (changed(&|frame| frame.payload.truncate(40)), ErrorCode::KvSizeMismatch),
    ] {
        let error = reassembly.insert(&frame).unwrap_err();
        assert_eq!(error.code(), expected, "{error}");
        assert_eq!(error.fault(), expected.fault());
        assert_eq!((reassembly.arrived(), gaps(&reassembly)), (0, vec![(0, 6)]));
    }
    assert!(matches!(reassembly.insert(&slab_frame(&manifest, &cache, 0)), Ok(Received::New(_))));
}

#[test]
fn a_slab_without_a_digest_gets_one_and_trusted_bytes_are_not_hashed() {
    let (.., frames, mut reassembly) = uneven();
    let mut frame = frames[0].clone();
    frame.metadata.extra.remove(ext::BLAKE3);
    let Received::New(slab) = reassembly.insert(&frame).unwrap() else { panic!() };
    assert_eq!(&slab.digest, blake3::hash(&frame.payload).as_bytes());
    let mut trusting = Reassembly::new(*reassembly.manifest(), transfer(), &Limits::trusted()).unwrap();
    frame.metadata.extra.insert(ext::BLAKE3.to_owned(), "ab".repeat(32));
    let Received::New(slab) = trusting.insert(&frame).unwrap() else { panic!() };
    assert_eq!(slab.digest, [0xab; 32]);
}

// spec: slabs 4.2, slabs 4.3
#[test]
fn a_stated_digest_is_held_against_the_slabs() {
    let (.., manifest, frames, _) = uneven();
    let digests: Vec<[u8; 32]> =
        frames.iter().map(|frame| *blake3::hash(&frame.payload).as_bytes()).collect();
    for (digest, expected) in [
        (transfer_digest(&digests), Ok(transfer_digest(&digests))),
        (transfer_digest(digests.iter().rev()), Err(SlabError::TransferDigestMismatch)),
    ] {
        let manifest = Manifest { digest: Some(digest), ..manifest };
        let mut reassembly = Reassembly::new(manifest, transfer(), &Limits::default()).unwrap();
        for frame in &frames {
            reassembly.insert(frame).unwrap();
        }
        assert_eq!(reassembly.finish(), expected);
    }
}

#[test]
fn manifests_survive_the_wire() {
    let (_, manifest, ..) = uneven();
    for digest in [None, Some([7; 32])] {
        let manifest = Manifest { digest, ..manifest };
        let context =
            Metadata { model_id: "m".into(), num_layers: 3, tensor_shape: vec![1], ..Metadata::default() };
        let frame = manifest.to_frame(context, &transfer());
        let wire = frame.encode(&EncodeOptions::default()).unwrap().to_vec();
        let frame = Frame::decode(wire.into(), &Limits::strict()).unwrap();
        assert_eq!(Manifest::from_frame(&frame), Ok((manifest, transfer())));
        assert_eq!(
            (frame.payload.len(), frame.metadata.model_id.as_str()),
            (25 + digest.map_or(0, |d| d.len()), "m")
        );
    }
}

// spec: slabs 2.1, slabs 2.2, slabs 2.3, slabs 2.4
#[test]
fn what_is_no_manifest_is_refused_by_code() {
    let (_, manifest, ..) = uneven();
    let sound = manifest.encode();
    let with = |at: usize, bytes: &[u8]| {
        let mut payload = sound.clone();
        payload[at..at + bytes.len()].copy_from_slice(bytes);
        payload
    };
    for (payload, expected) in [
        (vec![], ErrorCode::InvalidManifest),
        (sound[..24].to_vec(), ErrorCode::InvalidManifest),
        ([&sound[..], &[0]].concat(), ErrorCode::InvalidManifest),
        ([&sound[..], &[0; 33]].concat(), ErrorCode::InvalidManifest),
        (with(16, &[3]), ErrorCode::KvUnknownDtype),
        (with(12, &[0; 4]), ErrorCode::InvalidManifest),
        (with(17, &[0; 4]), ErrorCode::InvalidManifest),
        (with(21, &[0; 4]), ErrorCode::InvalidManifest),
    ] {
        assert_eq!(Manifest::decode(&payload).unwrap_err().code(), expected, "{payload:?}");
    }
    let frame = manifest.to_frame(Metadata::default(), &transfer());
    for (key, value, expected) in [
        (ext::KIND, Some("slab"), ErrorCode::InvalidManifest),
        (ext::KIND, None, ErrorCode::InvalidManifest),
        (ext::TRANSFER, None, ErrorCode::InvalidManifest),
        (ext::TRANSFER, Some("a b"), ErrorCode::InvalidManifest),
        (ext::KIND, Some("manifesto"), ErrorCode::InvalidManifest),
    ] {
        let mut frame = frame.clone();
        frame.metadata.extra.remove(key);
        frame.metadata.extra.extend(value.map(|value| (key.to_owned(), value.to_owned())));
        assert_eq!(Manifest::from_frame(&frame).unwrap_err().code(), expected, "{key} {value:?}");
    }
}

// spec: slabs 2.5, slabs 2.8, limits 11.1
#[test]
fn a_grid_of_nothing_is_refused_however_it_was_made() {
    let (_, manifest, ..) = uneven();
    let zero_layers = Manifest { kv: KvHeader { num_layers: 0, ..manifest.kv }, ..manifest };
    for manifest in
        [Manifest { slab_layers: 0, ..manifest }, Manifest { slab_tokens: 0, ..manifest }, zero_layers]
    {
        let error = Reassembly::new(manifest, transfer(), &Limits::default()).unwrap_err();
        assert_eq!(error, SlabError::ZeroCount);
        assert!(manifest.slabs().count() <= 15);
    }
}

#[test]
fn slabs_are_capped_by_number() {
    let kv = KvHeader { num_layers: 256, num_kv_heads: 1, head_dim: 1, seq_len: 256, dtype: KvDtype::F16 };
    let most = Manifest::new(kv, 1, 1);
    assert!(Reassembly::new(most, transfer(), &Limits::default()).is_ok());
    let more = Manifest::new(KvHeader { seq_len: 257, ..kv }, 1, 1);
    let error = Reassembly::new(more, transfer(), &Limits::default()).unwrap_err();
    assert_eq!(error, SlabError::TooManySlabs { count: 256 * 257, max: 65_536 });
    // As many bytes as 64 bits count, and a slab for each value.
    let wide = KvHeader { num_layers: u32::MAX, seq_len: 1 << 29, ..kv };
    let manifest = Manifest::decode(&Manifest::new(wide, 1, 1).encode()).unwrap();
    assert_eq!(manifest.slab_count(), u64::from(u32::MAX) << 29);
    let last = SlabId { first_layer: 7, layers: 1, first_token: (1 << 29) - 1, tokens: 1 };
    assert_eq!((manifest.slab(u32::MAX), manifest.index(&last)), (Some(last), Some(u32::MAX)));
    let error = Reassembly::new(manifest, transfer(), &Limits::default()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooManySlabs);
    let huge = KvHeader { num_kv_heads: u32::MAX, ..wide };
    assert_eq!(Manifest::decode(&Manifest::new(huge, 1, 1).encode()), Err(SlabError::Kv(KvError::Overflow)));
    // One slab of everything: its header alone says that it cannot be there.
    let whole = Manifest::new(huge, u32::MAX, u32::MAX);
    let id = whole.slab(0).unwrap();
    let error = whole.slab_frame(Metadata::default(), &transfer(), &id, huge.encode().to_vec().into());
    assert_eq!(error.unwrap_err().code(), ErrorCode::KvOverflow);
}

#[test]
fn wrong_buffers_are_the_callers_fault() {
    let (cache, manifest, ..) = uneven();
    let id = manifest.slab(0).unwrap();
    let len = manifest.slab_header(&id).payload_len().unwrap();
    let error = manifest.extract(&cache, &id, &mut vec![0; len + 1]).unwrap_err();
    assert_eq!(error, SlabError::BufferLength { expected: len, got: len + 1 });
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    let off = SlabId { tokens: 3, ..id };
    assert_eq!(manifest.extract(&cache, &off, &mut vec![0; len]), Err(SlabError::OffGrid(off)));
    let other = self::cache(3, 2, 5, 2, KvDtype::F16);
    let error = manifest.extract(&other, &id, &mut vec![0; len]).unwrap_err();
    assert!(matches!(error, SlabError::Header { .. }));
    let error = manifest.place(&id, &other, &mut vec![0; cache.as_bytes().len()]).unwrap_err();
    assert!(matches!(error, SlabError::Header { .. }));
}
