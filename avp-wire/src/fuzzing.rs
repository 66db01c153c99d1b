//! Bodies of the fuzz targets in `fuzz/`, which also run here as property tests. Each takes any bytes and panics
//! where a promise of this crate is broken.

use bytes::Bytes;

use crate::compression::Compression;
use crate::{
    DecodeError, EncodeOptions, Flags, Frame, FrameDecoder, FrameHead, Header, KvHeader, KvPayload, Limits,
    Metadata,
};

/// What a fuzzed payload may take in memory.
const BUDGET: u64 = 4 << 20;

fn limits(preset: Limits) -> Limits {
    Limits { memory_budget: BUDGET, ..preset }
}

/// A header that is taken is written back as it was.
pub fn header(data: &[u8]) {
    let preset = limits(Limits::default());
    if let Ok(header) = Header::decode(data, &preset) {
        assert_eq!(data.first_chunk(), Some(&header.encode()));
        assert!(header.metadata_length <= header.payload_length);
    }
}

/// Metadata that is taken survives its own encoding, and what the default takes, lenient takes too.
pub fn metadata(data: &[u8]) {
    if let Ok(metadata) = Metadata::decode(data, &Limits::default()) {
        let bytes = metadata.to_vec();
        assert_eq!(bytes.len(), metadata.encoded_len());
        assert_eq!(Metadata::decode(&bytes, &Limits::default()).as_ref(), Ok(&metadata));
        assert_eq!(Metadata::decode(data, &Limits::lenient()), Ok(metadata));
    }
}

/// A stricter profile never reads another frame than a laxer one, and a frame survives its own encoding.
pub fn frame(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let decode = |preset| Frame::decode(bytes.clone(), &limits(preset));
    let [strict, default, lenient] = [Limits::strict(), Limits::default(), Limits::lenient()].map(decode);
    if strict.is_ok() {
        assert_eq!(strict, default);
    }
    if let Ok(frame) = default {
        assert_eq!(lenient.as_ref(), Ok(&frame));
        round_trip(&frame, &EncodeOptions { align: true, ..EncodeOptions::default() });
        assert!(FrameHead::decode(data, &limits(Limits::default())).is_ok());
    }
}

fn round_trip(frame: &Frame, options: &EncodeOptions) {
    let encoded = frame.encode(options).map(|encoded| encoded.to_vec());
    let decoded = encoded.map(|bytes| Frame::decode(bytes.into(), &limits(Limits::lenient())));
    let payload = decoded.map(|frame| frame.map(|frame| frame.payload));
    assert_eq!(payload, Ok(Ok(frame.payload.clone())));
}

/// A stream gives the same frames and the same end, however it is split. The first byte seeds the splits.
pub fn splits(data: &[u8]) {
    let Some((&seed, stream)) = data.split_first() else { return };
    let whole = frames(&[stream]);
    let mut pieces = Vec::new();
    let (mut rest, mut state) = (stream, u32::from(seed));
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let len = usize::try_from(state >> 27).unwrap_or_default();
        let (piece, after) = rest.split_at_checked(len).unwrap_or((rest, &[]));
        pieces.push(piece);
        rest = after;
    }
    assert_eq!(frames(&pieces), whole);
}

fn frames(pieces: &[&[u8]]) -> (Vec<Frame>, Result<(), DecodeError>) {
    let mut decoder = FrameDecoder::new(limits(Limits::default()));
    let mut frames = Vec::new();
    for piece in pieces {
        let mut piece = Bytes::copy_from_slice(piece);
        loop {
            match decoder.decode(&mut piece) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        assert!(piece.is_empty());
    }
    (frames, decoder.finish())
}

/// A KV payload that is taken is covered by its planes, without a gap.
pub fn kv(data: &[u8]) {
    let Ok(payload) = KvPayload::parse(Bytes::copy_from_slice(data)) else { return };
    let header = payload.header();
    let planes = |layer| [header.k_range(layer), header.v_range(layer)].into_iter().flatten();
    let mut end = KvHeader::SIZE;
    for range in (0..header.num_layers).flat_map(planes) {
        assert_eq!(range.start, end);
        assert!(range.end > range.start);
        end = range.end;
    }
    assert_eq!(end, data.len());
    assert_eq!(payload.k(header.num_layers), None);
}

/// Any bytes as a compressed payload stay within the budget, and any bytes survive compression.
pub fn compression(data: &[u8]) {
    let metadata = Metadata { compression: Some(Compression::NAME.to_owned()), ..Metadata::default() };
    let header = Header {
        flags: Flags::COMPRESSED,
        payload_length: u32::try_from(data.len()).unwrap_or(u32::MAX),
        metadata_length: 0,
    };
    for preset in [Limits::default(), Limits::lenient()] {
        let head = FrameHead { header, metadata: metadata.clone() };
        if let Ok(frame) = head.into_frame(Bytes::copy_from_slice(data), &limits(preset)) {
            assert!(u64::try_from(frame.payload.len()).is_ok_and(|len| len <= BUDGET));
        }
    }
    let frame = Frame::new(Metadata::default(), data.to_vec());
    round_trip(&frame, &EncodeOptions { compression: Some(Compression::Fast), ..EncodeOptions::default() });
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use crate::{Compression, DType, Frame, KvDtype, KvHeader, Metadata, Mode, PayloadType};

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
            let compression = compress.then_some(Compression::Fast);
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
            let head = crate::Header::decode(&frame, &crate::Limits::default());
            let end = head.map_or(12, |head| 12 + head.metadata_length as usize);
            super::metadata(frame.get(12..end).unwrap_or_default());
        }

        #[test]
        fn any_frame(data in nearly_a_frame()) {
            super::frame(&data);
        }

        // spec: frame 8.1
        #[test]
        fn any_split(seed in any::<u8>(), frames in vec(nearly_a_frame(), 0..4)) {
            super::splits(&[vec![seed], frames.concat()].concat());
        }

        #[test]
        fn any_kv(counts in [0..4_u32, 0..4, 0..4, 0..4], planes in 0..300_usize, exact in any::<bool>(), dtype in 0..3_u8) {
            let [num_layers, num_kv_heads, head_dim, seq_len] = counts;
            let dtype = KvDtype::from_byte(dtype).unwrap();
            let header = KvHeader { num_layers, num_kv_heads, head_dim, seq_len, dtype };
            let planes = if exact { header.payload_len().unwrap() - KvHeader::SIZE } else { planes };
            super::kv(&[&header.encode()[..], &vec![0; planes]].concat());
        }

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
            super::round_trip(&frame, &crate::EncodeOptions { align: true, ..Default::default() });
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
}
