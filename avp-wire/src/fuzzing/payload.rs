//! What a payload can be: a KV cache, or compressed.

use alloc::borrow::ToOwned;

use bytes::Bytes;

use super::frame::round_trip;
use super::{BUDGET, limits};
use crate::{
    Compression, EncodeOptions, Flags, Frame, FrameHead, Header, KvHeader, KvPayload, Limits, Metadata,
    PayloadType,
};

/// A KV payload that is taken is covered by its planes, without a gap, and no header makes its sizes wrap.
pub fn kv(data: &[u8]) {
    let Ok(header) = KvHeader::decode(data) else {
        assert!(KvPayload::parse(Bytes::copy_from_slice(data)).is_err());
        return;
    };
    assert_eq!(data.first_chunk(), Some(&header.encode()));
    for layer in [0, header.num_layers / 2, header.num_layers.saturating_sub(1), u32::MAX] {
        let (k, v) = (header.k_range(layer), header.v_range(layer));
        assert!(k.zip(v).is_none_or(|(k, v)| k.end == v.start && k.len() == v.len()));
    }
    let Ok(payload) = KvPayload::parse(Bytes::copy_from_slice(data)) else {
        assert!(header.payload_len() != Ok(data.len()) || counts(&header).contains(&0));
        return;
    };
    assert_eq!((payload.header(), header.payload_len()), (&header, Ok(data.len())));
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

fn counts(header: &KvHeader) -> [u32; 4] {
    [header.num_layers, header.num_kv_heads, header.head_dim, header.seq_len]
}

/// Any bytes as a compressed payload stay within the budget and give no more under stricter limits, and any bytes
/// survive compression.
pub fn compression(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for payload_type in [PayloadType::HiddenState, PayloadType::KvCache] {
        let compression = Some(Compression::NAME.to_owned());
        let metadata = Metadata { compression, payload_type, ..Metadata::default() };
        let header = Header {
            flags: Flags::COMPRESSED,
            payload_length: u32::try_from(data.len()).unwrap_or(u32::MAX),
            metadata_length: 0,
        };
        let decode = |preset| {
            let head = FrameHead { header, metadata: metadata.clone() };
            head.into_frame(bytes.clone(), &limits(preset))
        };
        let (default, lenient) = (decode(Limits::default()), decode(Limits::lenient()));
        for frame in [&default, &lenient].into_iter().flatten() {
            assert!(u64::try_from(frame.payload.len()).is_ok_and(|len| len <= BUDGET));
        }
        if default.is_ok() {
            assert_eq!(default, lenient);
        }
    }
    if cfg!(feature = "zstd") {
        // The slow level for few bytes only.
        let level = if data.len() < 256 { Compression::Max } else { Compression::Fast };
        let options = EncodeOptions { compression: Some(level), ..EncodeOptions::default() };
        round_trip(&Frame::new(Metadata::default(), bytes), &options);
    }
}
