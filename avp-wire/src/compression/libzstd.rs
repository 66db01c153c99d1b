//! Compression by libzstd.

use alloc::vec::Vec;

use bytes::Bytes;
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use super::Compression;
use super::zstd_header::ZstdHeader;
use crate::error::{DecodeError, EncodeError};
use crate::header::len_u64;
use crate::limits::Limits;

/// Bytes of content that a byte of a zstd frame gives at most: a block of 4 bytes repeats one byte 128 KiB long.
const MAX_RATIO: u64 = (128 << 10) / 4;

/// Compresses `payload` into one zstd frame that states its content size.
pub(crate) fn compress(payload: &[u8], compression: Compression) -> Result<Bytes, EncodeError> {
    let bound = zstd_safe::compress_bound(payload.len());
    let mut out = Vec::new();
    out.try_reserve_exact(bound).map_err(|_| EncodeError::Compression("out of memory"))?;
    zstd_safe::compress(&mut out, payload, compression.level())
        .map_err(|code| EncodeError::Compression(zstd_safe::get_error_name(code)))?;
    Ok(out.into())
}

/// A compressed payload whose frame header has been read and held against the limits.
pub(crate) struct Compressed<'a> {
    frame: &'a [u8],
    content_size: u64,
    window_log_max: u32,
}

impl<'a> Compressed<'a> {
    /// Reads the zstd frame header; decompresses nothing.
    pub(crate) fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        if limits.is_lenient() {
            return Self::open_lenient(bytes, limits);
        }
        let header = ZstdHeader::read(bytes)?;
        let window = header.window_size;
        if 1_u64.checked_shl(limits.max_window_log).is_some_and(|max| window > max) {
            return Err(DecodeError::WindowTooLarge { window, max_log: limits.max_window_log });
        }
        let content_size = header.content_size.ok_or(DecodeError::NoContentSize)?;
        let frame = first_frame(bytes)?;
        if frame.len() != bytes.len() {
            return Err(DecodeError::CompressedTrailingBytes(len_u64(bytes) - len_u64(frame)));
        }
        Self { frame, content_size, window_log_max: limits.max_window_log }.within(limits)
    }

    /// As the SDK does: the first frame counts, what follows is ignored, and a frame that announces no content
    /// is an empty payload, whatever it goes on with.
    fn open_lenient(bytes: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        let content_size = ZstdHeader::read(bytes)?.content_size.ok_or(DecodeError::NoContentSize)?;
        if zstd_safe::get_frame_content_size(bytes).is_err() {
            return Err(DecodeError::InvalidCompression("zstd does not take the frame header"));
        }
        let frame = if content_size == 0 { &[] } else { first_frame(bytes)? };
        Self { frame, content_size, window_log_max: limits.max_window_log }.within(limits)
    }

    fn within(self, limits: &Limits) -> Result<Self, DecodeError> {
        if self.content_size > limits.memory_budget {
            return Err(DecodeError::MemoryBudget {
                needed: self.content_size,
                budget: limits.memory_budget,
            });
        }
        Ok(self)
    }

    /// Bytes that the frame says it holds.
    pub(crate) fn content_size(&self) -> u64 {
        self.content_size
    }

    /// Fills `out` from the start of the content and leaves the rest alone. Gives the bytes written.
    pub(crate) fn peek<'b>(&self, out: &'b mut [u8]) -> Result<&'b [u8], DecodeError> {
        let mut context = DCtx::try_create().ok_or(DecodeError::InvalidCompression("out of memory"))?;
        context
            .set_parameter(DParameter::WindowLogMax(self.window_log_max.clamp(10, 31)))
            .map_err(corrupt)?;
        let mut input = InBuffer::around(self.frame);
        let mut output = OutBuffer::around(out);
        loop {
            let before = (input.pos(), output.pos());
            let hint = context.decompress_stream(&mut output, &mut input).map_err(corrupt)?;
            if hint == 0 || output.pos() == output.capacity() || before == (input.pos(), output.pos()) {
                break;
            }
        }
        let len = output.pos();
        Ok(out.get(..len).unwrap_or_default())
    }

    /// The whole content, exactly as long as announced.
    pub(crate) fn decompress(&self) -> Result<Bytes, DecodeError> {
        if self.content_size == 0 && self.frame.is_empty() {
            return Ok(Bytes::new());
        }
        if self.content_size / MAX_RATIO > len_u64(self.frame) {
            return Err(DecodeError::InvalidCompression("content is shorter than announced"));
        }
        let no_memory = DecodeError::MemoryBudget { needed: self.content_size, budget: 0 };
        let len = usize::try_from(self.content_size).map_err(|_| no_memory.clone())?;
        let mut out = Vec::new();
        out.try_reserve_exact(len).map_err(|_| no_memory)?;
        zstd_safe::decompress(&mut out, self.frame).map_err(corrupt)?;
        if out.len() != len {
            return Err(DecodeError::InvalidCompression("content is shorter than announced"));
        }
        Ok(out.into())
    }
}

fn first_frame(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let len = zstd_safe::find_frame_compressed_size(bytes).map_err(corrupt)?;
    bytes.get(..len).ok_or(DecodeError::InvalidCompression("frame is cut short"))
}

fn corrupt(code: zstd_safe::ErrorCode) -> DecodeError {
    DecodeError::InvalidCompression(zstd_safe::get_error_name(code))
}
