//! The protobuf messages, and the values that registered `extra` keys take.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::str;

use crate::ext::{self, FrameKind, SlabId};
use crate::slab::TransferId;
use crate::{ErrorCode, Limits, Metadata, TransmitResponse};

/// Metadata that is taken survives its own encoding, what the default takes lenient takes too, and twice the message
/// is the same metadata with the shape twice.
pub fn metadata(data: &[u8]) {
    let (default, lenient) = (Limits::default(), Limits::lenient());
    let Ok(metadata) = Metadata::decode(data, &lenient) else {
        assert!(Metadata::decode(data, &default).is_err());
        return;
    };
    let bytes = metadata.to_vec();
    assert_eq!(bytes.len(), metadata.encoded_len());
    assert_eq!(Metadata::decode(&bytes, &lenient).as_ref(), Ok(&metadata));
    let shape = metadata.tensor_shape.repeat(2);
    let twice = Metadata { tensor_shape: shape, ..metadata.clone() };
    assert_eq!(Metadata::decode(&[data, &bytes].concat(), &lenient), Ok(twice));
    if let Ok(taken) = Metadata::decode(data, &default) {
        assert!(taken.tensor_shape.len() <= default.max_rank);
        assert!(taken.extra.len() <= default.max_extra_entries);
        assert!(taken.extra.keys().all(|key| key.len() <= default.max_extra_key_len));
        assert!(taken.extra.values().all(|value| value.len() <= default.max_extra_value_len));
        assert_eq!(taken, metadata);
        assert_eq!(Metadata::decode(&bytes, &default), Ok(metadata));
    }
}

/// An answer that is taken survives its own encoding, and what the default takes lenient takes too.
pub fn response(data: &[u8]) {
    let lenient = TransmitResponse::decode(data, &Limits::lenient());
    if let Ok(response) = &lenient {
        assert_eq!(TransmitResponse::decode(&response.to_vec(), &Limits::lenient()).as_ref(), Ok(response));
    }
    if let Ok(response) = TransmitResponse::decode(data, &Limits::default()) {
        assert_eq!(lenient, Ok(response));
    }
}

/// Registered values have one spelling.
pub fn extensions(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(slab) = text.parse::<SlabId>() {
        assert_eq!(slab.to_string(), text);
        assert!(slab.layers > 0 && slab.first_layer.checked_add(slab.layers).is_some());
        assert!(slab.tokens > 0 && slab.first_token.checked_add(slab.tokens).is_some());
    }
    if let Ok(kind) = text.parse::<FrameKind>() {
        assert_eq!(kind.as_str(), text);
    }
    if let Ok(transfer) = text.parse::<TransferId>() {
        assert_eq!(transfer.as_str(), text);
        assert!(text.len() <= 64 && text.bytes().all(|byte| (0x21..0x7f).contains(&byte)));
    }
    if let Ok(count) = ext::parse_count(ext::TOKENS, text) {
        assert_eq!(ext::parse_count(ext::TOKENS, &count.to_string()), Ok(count));
        assert!(text.bytes().all(|byte| byte.is_ascii_digit()));
    }
    if let Ok(probability) = ext::parse_probability(ext::ENDING, text) {
        assert!((0.0..=1.0).contains(&probability));
        assert_eq!(ext::parse_probability(ext::ENDING, &probability.to_string()), Ok(probability));
    }
    if let Some(code) = ErrorCode::from_name(text) {
        assert_eq!((code.as_str(), ErrorCode::from_number(code.number())), (text, Some(code)));
    }
    let sound = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let hash = ext::parse_hash(ext::WEIGHTS, text);
    assert_eq!(hash.is_ok(), sound);
    if let Ok(hash) = hash {
        let digits = |byte: u8| [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16));
        let digits: Vec<Option<char>> = hash.into_iter().flat_map(digits).collect();
        assert!(digits.into_iter().eq(text.chars().map(Some)));
    }
}
