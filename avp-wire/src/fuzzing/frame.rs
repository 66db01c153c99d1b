//! Headers and whole messages.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::vec::Vec;

use bytes::Bytes;

use super::limits;
use crate::{Compression, DecodeError, EncodeOptions, Frame, FrameHead, Header, Limits, Metadata, ext};

/// A header that is taken is written back as it was, and nothing behind it is looked at.
pub fn header(data: &[u8]) {
    let presets = [Limits::strict(), Limits::default(), Limits::lenient()].map(limits);
    let [strict, default, lenient] = presets.map(|limits| Header::decode(data, &limits));
    assert_eq!(strict, default);
    let Ok(header) = lenient else {
        assert!(default.is_err());
        return;
    };
    let (head, _) = data.split_first_chunk().unwrap_or((&[0; Header::SIZE], &[]));
    assert_eq!(head, &header.encode());
    assert_eq!(Header::decode(head, &limits(Limits::lenient())), Ok(header));
    assert!(header.metadata_length <= header.payload_length);
    assert_eq!(default.is_ok(), !header.flags.has_reserved() && header.metadata_length <= 64 << 10);
    assert_eq!(
        header.frame_len() - 12,
        u64::from(header.metadata_length) + u64::from(header.payload_len_on_wire())
    );
}

/// A stricter profile never reads another frame than a laxer one, a frame survives its own encoding, and the parts
/// of decoding give what the whole gives.
pub fn frame(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let decode = |preset| Frame::decode(bytes.clone(), &limits(preset));
    let presets = [Limits::strict(), Limits::default(), Limits::trusted(), Limits::lenient()];
    let [strict, default, trusted, lenient] = presets.map(decode);
    if strict.is_ok() {
        assert_eq!(strict, default);
        is_whole(&bytes, &limits(Limits::strict()));
    }
    if let Ok(frame) = &default {
        assert_eq!(lenient.as_ref(), Ok(frame));
        assert_eq!(trusted.as_ref(), Ok(frame));
        is_whole(&bytes, &limits(Limits::default()));
        in_parts(&bytes, frame);
    }
    if let Ok(frame) = &lenient {
        assert_eq!(frame.verify_checksum(), Ok(()));
        for align in [true, false] {
            round_trip(frame, &EncodeOptions { align, ..EncodeOptions::default() });
        }
    }
    for error in [strict, default, trusted, lenient].into_iter().filter_map(Result::err) {
        assert!(!format!("{error} {} {:?}", error.code(), error.fault()).is_empty());
    }
}

/// One byte less is a cut message, one more a message with something behind it.
fn is_whole(bytes: &Bytes, limits: &Limits) {
    let needed = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    let cut = Frame::decode(bytes.slice(..bytes.len().saturating_sub(1)), limits);
    match needed > 12 {
        true => assert_eq!(cut, Err(DecodeError::Truncated { needed, got: needed - 1 })),
        false => assert_eq!(cut, Err(DecodeError::Truncated { needed: 12, got: needed - 1 })),
    }
    let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
    assert_eq!(Frame::decode(longer.into(), limits), Err(DecodeError::TrailingBytes(1)));
}

/// The head alone, then the payload without its checksum, then the checksum.
fn in_parts(bytes: &Bytes, frame: &Frame) {
    let limits = limits(Limits::default());
    let Ok(head) = FrameHead::decode(bytes, &limits) else {
        panic_on("the head of a sound frame is refused")
    };
    assert_eq!(head.metadata, frame.metadata);
    let start = bytes.len() - crate::header::to_usize(head.payload_len_on_wire());
    assert_eq!(FrameHead::decode(&bytes.slice(..start), &limits).as_ref(), Ok(&head));
    assert_eq!(head.into_unverified(bytes.slice(start..), &limits).as_ref(), Ok(frame));
    if frame.metadata.compression.is_none() && !frame.payload.is_empty() {
        let view = bytes.as_ptr_range();
        assert!(view.contains(&frame.payload.as_ptr()), "a payload was copied");
    }
}

/// What is encoded is decoded again, but for what the options say.
pub(super) fn round_trip(frame: &Frame, options: &EncodeOptions) {
    let encoded = frame.encode(options).map(|encoded| encoded.to_vec());
    let decoded = encoded.map(|bytes| Frame::decode(bytes.into(), &limits(Limits::lenient())));
    let Ok(Ok(mut decoded)) = decoded else { panic_on("a frame that was encoded here is refused") };
    let padded = decoded.metadata.extra.remove(ext::PAD).is_some();
    assert_eq!(padded, options.align && options.compression.is_none());
    let mut metadata = Metadata {
        compression: options.compression.map(|_| Compression::NAME.to_owned()),
        payload_checksum: options.checksum.then(|| crc32fast::hash(&frame.payload)),
        ..frame.metadata.clone()
    };
    metadata.extra.remove(ext::PAD);
    assert_eq!(decoded, Frame::new(metadata, frame.payload.clone()));
}

#[expect(clippy::panic, reason = "a broken promise")]
fn panic_on(what: &str) -> ! {
    panic!("{what}")
}
