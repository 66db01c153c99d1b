//! Agent Vector Protocol: version-1 frames, KV payloads and limits, without IO.
//!
//! Read [`Frame`] first: metadata and payload, with `encode` and `decode`. A transport that reads a frame in
//! parts uses [`Header`], [`FrameHead`] and [`BufferPool`], or [`FrameDecoder`] where bytes come in any split.
//! [`KvPayload`] is a checked view of a KV cache. [`Limits`] says what is taken from a peer, [`DecodeError`] why
//! something is not, [`ErrorCode`] how that is called on the wire. [`ext`] is the registry of `extra` keys,
//! [`slab`] cuts caches into slabs and puts them together again.
//! [`Distribution`] and [`vocabulary`] are what models of different kinds exchange.
//!
//! Payload bytes are never copied: a decoded payload is a view of the input, an encoded frame is a small head
//! and the payload it was given. There is no IO, no clock, no async and no `unsafe` here.
//!
//! The format is specified in `docs/spec/`, which comments cite; `spec-vectors/` holds its test vectors.

#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::panic
    )
)]

extern crate alloc;

mod code;
mod compression;
mod decoder;
mod distribution;
mod encode;
mod error;
pub mod ext;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod header;
mod kv;
mod limits;
mod metadata;
mod payload_buffer;
#[cfg(feature = "std")]
mod pool;
mod proto;
mod response;
#[cfg(feature = "serde")]
mod serde_text;
pub mod slab;
mod varint;
pub mod vocabulary;

pub use bytes::Bytes;

pub use code::{ErrorCode, Fault};
pub use compression::Compression;
pub use decoder::{ChecksumCheck, FrameDecoder};
pub use distribution::{Distribution, DistributionError};
pub use encode::{ALIGNMENT, EncodeOptions, EncodedFrame};
pub use error::{DecodeError, EncodeError};
pub use frame::{Frame, FrameHead};
pub use header::{Flags, Header, MAGIC, VERSION};
pub use kv::{KvDtype, KvError, KvHeader, KvPayload};
pub use limits::{Limits, Profile};
pub use metadata::{DType, Metadata, Mode, PayloadType};
pub use payload_buffer::PayloadBuffer;
#[cfg(feature = "std")]
pub use pool::{BufferPool, BufferSource, PooledBuf, SourceMemory};
pub use response::TransmitResponse;
