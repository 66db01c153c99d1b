//! The bodies over the committed corpus, and as property tests.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::{Compression, DType, Flags, Frame, Header, KvDtype, KvHeader, Metadata, Mode, PayloadType};

type Body = fn(&[u8]);

/// Every target, by its name in `fuzz/`.
const TARGETS: [(&str, Body); 12] = [
    ("wire_compression", super::compression),
    ("wire_distribution", super::distribution),
    ("wire_extensions", super::extensions),
    ("wire_frame", super::frame),
    ("wire_header", super::header),
    ("wire_kv", super::kv),
    ("wire_manifest", super::manifest),
    ("wire_metadata", super::metadata),
    ("wire_response", super::response),
    ("wire_slabs", super::slabs),
    ("wire_splits", super::splits),
    ("wire_vocabulary", super::vocabulary),
];

#[test]
fn every_input_of_the_corpus_holds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let files = |folder: &str| -> Vec<PathBuf> {
        let folder = fuzz.join(folder);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    };
    let ours = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().starts_with("wire_");
    for folder in ["fuzz_targets", "corpus"] {
        let there: Vec<PathBuf> = files(folder).into_iter().filter(ours).collect();
        let names = there.iter().map(|path| path.file_stem().unwrap().to_str().unwrap());
        assert!(names.eq(TARGETS.map(|(name, _)| name)), "fuzz/{folder} holds {there:?}");
    }
    for (target, body) in TARGETS {
        let inputs = files(&format!("corpus/{target}"));
        assert!(!inputs.is_empty(), "fuzz/corpus/{target} is empty");
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            assert!(panic::catch_unwind(|| body(&bytes)).is_ok(), "{target} breaks on {}", input.display());
        }
    }
}

prop_compose! {
    fn metadata()(
        names in vec("\\PC{0,12}", 5), counts in (any::<u32>(), 0..3_u32), kv in any::<bool>(),
        dtype in 0..4, shape in vec(0..300_u32, 0..9), json in any::<bool>(),
        extra in proptest::collection::btree_map("\\PC{0,8}", "\\PC{0,20}", 0..5),
    ) -> Metadata {
        Metadata {
            session_id: names[0].clone(),
            source_agent_id: names[1].clone(),
            target_agent_id: names[2].clone(),
            model_id: names[3].clone(),
            avp_map_id: names[4].clone(),
            hidden_dim: counts.0,
            num_layers: counts.1,
            payload_type: if kv { PayloadType::KvCache } else { PayloadType::HiddenState },
            dtype: DType::from_number(dtype).unwrap(),
            tensor_shape: shape,
            mode: if json { Mode::Json } else { Mode::Latent },
            extra,
            ..Metadata::default()
        }
    }
}

prop_compose! {
    /// Bytes of a frame with a few of them changed, so that most of it is sound.
    fn nearly_a_frame()(
        metadata in metadata(), payload in vec(any::<u8>(), 0..200), compress in any::<bool>(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) -> Vec<u8> {
        let compression = (compress && cfg!(feature = "zstd")).then_some(Compression::Fast);
        let options = crate::EncodeOptions { compression, ..Default::default() };
        let mut bytes = Frame::new(metadata, payload).encode(&options).unwrap().to_vec();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes
    }
}

proptest! {
    #[test]
    fn any_header(data in vec(any::<u8>(), 0..16), start in prop_oneof![Just(0_usize), Just(3)]) {
        super::header(&[&b"AV\x01"[..start], &data].concat());
    }

    #[test]
    fn any_metadata(data in vec(prop_oneof![any::<u8>(), 0..0x80_u8, Just(0x72)], 0..60)) {
        super::metadata(&data);
    }

    #[test]
    fn nearly_metadata(frame in nearly_a_frame()) {
        let head = Header::decode(&frame, &crate::Limits::default());
        let end = head.map_or(12, |head| 12 + head.metadata_length as usize);
        super::metadata(frame.get(12..end).unwrap_or_default());
    }

    #[test]
    fn any_frame(data in nearly_a_frame()) {
        super::frame(&data);
    }

    // spec: frame 8.1
    #[test]
    fn any_split(plan in any::<[u8; 2]>(), frames in vec(nearly_a_frame(), 0..4)) {
        super::splits(&[&plan[..], &frames.concat()].concat());
    }

    #[test]
    fn any_long_split(seed in any::<u8>(), plan in 0..16_u8, len in 17_000..40_000_u32) {
        let header = Header { flags: Flags::default(), payload_length: len, metadata_length: 0 };
        super::splits(&[&[seed, plan | 32][..], &header.encode()].concat());
    }

    #[test]
    fn any_slabs(choices in vec(any::<u8>(), 0..80)) {
        super::slabs(&choices);
    }

    #[test]
    fn any_manifest(
        kv in [0..70_u32, 0..4, 0..4, 0..70], grid in [0..9_u32, 0..9], dtype in 0..4_u8,
        digest in prop_oneof![Just(0), Just(32), 0..40_usize],
    ) {
        let numbers = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        super::manifest(&[numbers(&kv), vec![dtype], numbers(&grid), vec![7; digest]].concat());
    }

    #[test]
    fn any_distribution(
        count in 0..4_u8, tokens in 0..4_u32, ids in vec(prop_oneof![0..4_u8, any::<u8>()], 0..8),
        values in vec(prop_oneof![0.0..0.3_f32, any::<f32>()], 0..8), more in vec(any::<u8>(), 0..4),
    ) {
        let values = values.into_iter().flat_map(f32::to_le_bytes).collect();
        super::distribution(&[vec![count], tokens.to_le_bytes().to_vec(), ids, values, more].concat());
    }

    #[test]
    fn nearly_distributions(
        positions in vec((proptest::collection::btree_set(any::<u32>(), 1..5), 0.0..0.3_f32), 1..4),
        change in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let position = |(ids, value): &(std::collections::BTreeSet<u32>, f32)| {
            crate::Distribution::new(ids.iter().copied().collect(), vec![*value; ids.len()], 0.0)
        };
        let sound: Vec<_> = positions.iter().filter_map(|stated| position(stated).ok()).collect();
        let mut data = [vec![sound.len() as u8], crate::Distribution::encode_all(&sound)].concat();
        if let Some((index, byte)) = change {
            let index = index.index(data.len());
            data[index] = byte;
        }
        super::distribution(&data);
    }

    #[test]
    fn any_vocabulary(
        count in 0..5_u32, ids in vec(prop_oneof![0..4_u8, any::<u8>()], 0..6), hashes in vec(0..4_u64, 0..10),
        sound in any::<bool>(),
    ) {
        let count = if sound { ids.len() as u32 } else { count };
        let hashes = if sound { hashes.iter().copied().cycle().take(2 * ids.len()).collect() } else { hashes };
        let hashes = hashes.into_iter().flat_map(u64::to_le_bytes).collect();
        super::vocabulary(&[count.to_le_bytes().to_vec(), ids, hashes].concat());
    }

    #[test]
    fn any_response(data in vec(prop_oneof![0..0x24_u8, any::<u8>()], 0..40)) {
        super::response(&data);
    }

    #[test]
    fn any_extension(text in "L[0-9]{1,11}[+][0-9]{1,2},T[0-9]{1,3}[+][0-9]{1,11}|[a-z]{3,8}|[0-9]{0,22}([.][0-9]{0,4})?|[0-9a-fG]{63,65}|\\PC{0,70}") {
        super::extensions(text.as_bytes());
    }

    #[test]
    fn any_kv(counts in [0..4_u32, 0..4, 0..4, 0..4], planes in 0..300_usize, exact in any::<bool>(), dtype in 0..3_u8) {
        let [num_layers, num_kv_heads, head_dim, seq_len] = counts;
        let dtype = KvDtype::from_byte(dtype).unwrap();
        let header = KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype };
        let planes = if exact { header.payload_len().unwrap() - KvHeader::SIZE } else { planes };
        super::kv(&[&header.encode()[..], &vec![0; planes]].concat());
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn any_compression(data in vec(any::<u8>(), 0..100), sound in any::<bool>(), cut in any::<prop::sample::Index>()) {
        if sound {
            let mut data = zstd::bulk::compress(&data, 1).unwrap();
            let index = cut.index(data.len().min(13));
            data[index] ^= 1;
            super::compression(&data);
        }
        super::compression(&data);
    }

    // spec: extensions 4.1
    #[test]
    fn every_frame_survives_and_aligns(metadata in metadata(), payload in vec(any::<u8>(), 0..200)) {
        let frame = Frame::new(metadata, payload);
        super::frame::round_trip(&frame, &crate::EncodeOptions { align: true, ..Default::default() });
        let aligned = frame.encode(&crate::EncodeOptions { align: true, ..Default::default() }).unwrap();
        let head = crate::FrameHead::decode(&aligned.head, &crate::Limits::default()).unwrap();
        prop_assert_eq!((aligned.head.len() + head.tensor_offset()) % 64, 0);
        prop_assert!(head.metadata.extra[crate::ext::PAD].bytes().all(|byte| byte == b' '));
        let mut unpadded = head.metadata;
        unpadded.extra.remove(crate::ext::PAD);
        unpadded.payload_checksum = None;
        prop_assert_eq!(unpadded, frame.metadata);
    }
}
