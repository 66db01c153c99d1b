//! What a build without the feature `zstd` does with compression: it refuses it.

use bytes::Bytes;

use super::Compression;
use crate::error::{DecodeError, EncodeError};
use crate::limits::Limits;

pub(crate) fn compress(_payload: &[u8], _compression: Compression) -> Result<Bytes, EncodeError> {
    Err(EncodeError::CompressionUnavailable)
}

/// A compressed payload, which this build never has.
pub(crate) enum Compressed {}

impl Compressed {
    pub(crate) fn open(_bytes: &[u8], _limits: &Limits) -> Result<Self, DecodeError> {
        Err(DecodeError::CompressionUnavailable)
    }

    pub(crate) fn content_size(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn peek<'b>(&self, _out: &'b mut [u8]) -> Result<&'b [u8], DecodeError> {
        match *self {}
    }

    pub(crate) fn decompress(&self) -> Result<Bytes, DecodeError> {
        match *self {}
    }
}
