//! Work that grows with a payload (compression, checksums), kept off the async workers where it takes long.

use std::io;

use avp_wire::{DecodeError, EncodeOptions, EncodedFrame, Flags, Frame, FrameHead, Limits};
use bytes::Bytes;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::connection::Peer;
use crate::error::{IoFault, UsageError};
use crate::link::Result;

/// A checksum over fewer bytes takes less time than it takes to hand it to another thread.
const LONG_CHECKSUM: usize = 1 << 20;

/// Encodes a frame for `peer`.
pub(crate) async fn encode(frame: &Frame, options: &EncodeOptions, peer: &Peer) -> Result<EncodedFrame> {
    let long_checksum = options.checksum && frame.payload.len() >= LONG_CHECKSUM;
    let encoded = if options.compression.is_some() || long_checksum {
        let (frame, options) = (frame.clone(), *options);
        finished(&mut spawn_blocking(move || frame.encode(&options)), peer).await?
    } else {
        frame.encode(options)
    };
    Ok(encoded.map_err(UsageError::Encode)?)
}

/// Whether a payload takes long to check: a compressed one may unpack to any size.
pub(crate) fn is_long_check(head: &FrameHead, payload: &[u8], limits: &Limits) -> bool {
    let has_checksum = limits.verify_checksum && head.metadata.payload_checksum.is_some();
    head.header.flags.contains(Flags::COMPRESSED) || has_checksum && payload.len() >= LONG_CHECKSUM
}

/// A payload that is being checked on a blocking thread. Kept by the receiver, so that a dropped future loses no frame.
#[derive(Debug)]
pub(crate) struct Check(JoinHandle<Result<Frame, DecodeError>>);

impl Check {
    pub(crate) fn start(head: FrameHead, payload: Bytes, limits: Limits) -> Self {
        Self(spawn_blocking(move || head.into_frame(payload, &limits)))
    }

    /// What came of it, once.
    pub(crate) async fn outcome(&mut self, peer: &str) -> Result<Result<Frame, DecodeError>> {
        finished(&mut self.0, peer).await
    }
}

/// The thread's result; there is none where the runtime shuts down.
async fn finished<T>(work: &mut JoinHandle<T>, peer: impl ToString) -> Result<T> {
    work.await
        .map_err(|error| IoFault::Broken { peer: peer.to_string(), source: io::Error::other(error) }.into())
}
