//! Reading context files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use avp_backend::{Backend, Context, VerificationPolicy};
use avp_wire::{BufferPool, DecodeError, Frame, FrameHead, Header, KvHeader, Limits};

use super::FileError;
use super::slabs::SlabFile;
use crate::outgoing::OutgoingContext;

/// Reads the context at `path` into `backend`.
///
/// # Errors
/// [`FileError`] if the file is not a frame, or not a context of this model.
pub fn load_context(
    path: &Path,
    backend: &dyn Backend,
    policy: VerificationPolicy,
    pool: &BufferPool,
) -> Result<Context, FileError> {
    if let Some(file) = SlabFile::open(path)? {
        return file.load(backend, policy, pool);
    }
    let frame = read_frame(path, pool)?;
    Context::from_frame(&frame, backend, policy).map_err(FileError::context(path))
}

/// The context at `path`, to be handed over. One in slabs is read as it goes, one in a frame at once.
///
/// # Errors
/// [`FileError`] if the file is not a context, or a part of it is missing.
pub fn open_context(path: &Path, pool: &BufferPool) -> Result<OutgoingContext, FileError> {
    if let Some(file) = SlabFile::open(path)? {
        return Ok(file.into_outgoing());
    }
    let frame = read_frame(path, pool)?;
    OutgoingContext::of_frame(&frame).map_err(|error| FileError::context(path)(error.into()))
}

/// Reads the frame at `path`, verified, its tensors 64-byte aligned.
///
/// # Errors
/// [`FileError`] if the file is not exactly one frame.
pub fn read_frame(path: &Path, pool: &BufferPool) -> Result<Frame, FileError> {
    let mut file = File::open(path).map_err(FileError::io(path))?;
    let limits = file_limits();
    let (head, rest) = read_head(&mut file, path, &limits, 0)?;
    let announced = u64::from(head.payload_len_on_wire());
    if rest != announced {
        let (needed, got) = (head.header.frame_len(), head.header.frame_len() - announced + rest);
        let source = if rest < announced {
            DecodeError::Truncated { needed, got }
        } else {
            DecodeError::TrailingBytes(rest - announced)
        };
        return Err(FileError::decode(path)(source));
    }
    // The length is the file's own, not a claim.
    let len = usize::try_from(rest).map_err(|_| {
        FileError::io(path)(io::Error::new(io::ErrorKind::FileTooLarge, "more than this machine can address"))
    })?;
    let mut buffer = pool.get_unfaulted(len, KvHeader::SIZE);
    file.read_exact(&mut buffer).map_err(FileError::io(path))?;
    head.into_frame(buffer.freeze(), &limits).map_err(FileError::decode(path))
}

/// A file of one's own may be as large as a frame can be; the budget of a connection does not concern it.
pub(super) fn file_limits() -> Limits {
    let mut limits = Limits::default();
    limits.memory_budget = u64::from(u32::MAX);
    limits
}

/// The head at `at`, where `file` stands, and how many bytes follow it.
pub(super) fn read_head(
    file: &mut File,
    path: &Path,
    limits: &Limits,
    at: u64,
) -> Result<(FrameHead, u64), FileError> {
    let total = file.metadata().map_err(FileError::io(path))?.len().saturating_sub(at);
    let mut bytes = vec![0; Header::SIZE];
    read_or_truncated(file, path, &mut bytes, Header::SIZE as u64, total)?;
    let header = Header::decode(&bytes, limits).map_err(FileError::decode(path))?;
    let end = Header::SIZE as u64 + u64::from(header.metadata_length);
    bytes.resize(Header::SIZE + header.metadata_length as usize, 0);
    read_or_truncated(file, path, &mut bytes[Header::SIZE..], end, total)?;
    let head = FrameHead::decode(&bytes, limits).map_err(FileError::decode(path))?;
    Ok((head, total - end))
}

fn read_or_truncated(
    file: &mut File,
    path: &Path,
    out: &mut [u8],
    needed: u64,
    got: u64,
) -> Result<(), FileError> {
    if got < needed {
        return Err(FileError::decode(path)(DecodeError::Truncated { needed, got }));
    }
    file.read_exact(out).map_err(FileError::io(path))
}
