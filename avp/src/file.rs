//! Contexts in files: written whole or not at all, and readable by their head alone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use avp_backend::{Backend, Context, ContextError, ContextStamp, VerificationPolicy};
use avp_wire::{
    BufferPool, DecodeError, EncodeError, EncodeOptions, Flags, Frame, FrameHead, Header, KvHeader, Limits,
    ext,
};

/// Why a context file could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file system refused. Nothing was left behind.
    #[error("{}: {}", path.display(), explain(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a whole, valid frame.
    #[error("{} is no valid context file: {source}; make it again with `avp think`, or copy it again", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong with its bytes.
        source: DecodeError,
    },
    /// The frame is not a context for this model.
    #[error("{}: {source}", path.display())]
    Context {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: ContextError,
    },
    /// The context does not fit one frame.
    #[error("{}: {source}", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: EncodeError,
    },
}

/// What the system said, and what to do.
fn explain(error: &io::Error) -> String {
    let kind = error.kind();
    let advice = match kind {
        io::ErrorKind::NotFound => "check the path, and that its folder exists",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "choose a place that you may read and write"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free some space, or choose another place"
        }
        io::ErrorKind::IsADirectory => "give a file, not a folder",
        _ => return error.to_string(),
    };
    format!("{kind}; {advice}")
}

impl FileError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }

    fn decode(path: &Path) -> impl FnOnce(DecodeError) -> Self + '_ {
        |source| Self::Decode { path: path.to_owned(), source }
    }

    fn context(path: &Path) -> impl FnOnce(ContextError) -> Self + '_ {
        |source| Self::Context { path: path.to_owned(), source }
    }
}

/// Writes `context` to `path`, with checksum and aligned tensors: beside the path first, then renamed, so that a
/// full disk or a crash leaves no partial file. Gives the file's bytes.
///
/// `model_hash` is stamped instead of the model's own: an SDK receiver takes a context only under its own hash.
/// `text` is what the model read, for receivers that can take nothing but text.
///
/// # Errors
/// [`FileError`].
pub fn save_context(
    context: &Context,
    path: &Path,
    model_hash: Option<&str>,
    text: Option<&str>,
    pool: &BufferPool,
) -> Result<u64, FileError> {
    let stamp = ContextStamp {
        model_hash: model_hash.map(str::to_owned),
        extensions: true,
        ..ContextStamp::default()
    };
    let mut frame = context.to_frame(&stamp, pool).map_err(FileError::context(path))?;
    if let Some(value) = text.and_then(crate::text_key::encode) {
        frame.metadata.extra.insert(ext::TEXT.to_owned(), value);
    }
    let options = EncodeOptions { align: true, ..EncodeOptions::default() };
    let encoded =
        frame.encode(&options).map_err(|source| FileError::Encode { path: path.to_owned(), source })?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut beside = tempfile::NamedTempFile::new_in(folder).map_err(FileError::io(path))?;
    beside.write_all(&encoded.head).map_err(FileError::io(path))?;
    beside.write_all(&encoded.payload).map_err(FileError::io(path))?;
    beside.as_file().sync_all().map_err(FileError::io(path))?;
    beside.persist(path).map_err(|error| FileError::io(path)(error.error))?;
    Ok(encoded.len() as u64)
}

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
    let frame = read_frame(path, pool)?;
    Context::from_frame(&frame, backend, policy).map_err(FileError::context(path))
}

/// Reads the frame at `path`, verified, its tensors 64-byte aligned.
///
/// # Errors
/// [`FileError`] if the file is not exactly one frame.
pub fn read_frame(path: &Path, pool: &BufferPool) -> Result<Frame, FileError> {
    let mut file = File::open(path).map_err(FileError::io(path))?;
    let mut limits = Limits::default();
    // A file of one's own may be as large as a frame can be; the budget of a connection does not concern it.
    limits.memory_budget = u64::from(u32::MAX);
    let (head, rest) = read_head(&mut file, path, &limits)?;
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

/// What [`inspect`] finds without reading a payload.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Inspection {
    /// Header and metadata.
    pub head: FrameHead,
    /// Shape of the KV cache, where the frame holds one and is not compressed.
    pub kv: Option<KvHeader>,
    /// Bytes of the file.
    pub file_len: u64,
}

/// Reads the head of the frame at `path`; never decompresses and never reads tensors.
///
/// # Errors
/// [`FileError`] if there is no valid head, or the file is shorter than it says.
pub fn inspect(path: &Path) -> Result<Inspection, FileError> {
    let mut file = File::open(path).map_err(FileError::io(path))?;
    let (head, rest) = read_head(&mut file, path, &Limits::default())?;
    let announced = u64::from(head.payload_len_on_wire());
    let file_len = head.header.frame_len() - announced + rest;
    if rest < announced {
        let source = DecodeError::Truncated { needed: head.header.frame_len(), got: file_len };
        return Err(FileError::decode(path)(source));
    }
    let mut kv = None;
    if head.header.flags.contains(Flags::KV_CACHE) && !head.header.flags.contains(Flags::COMPRESSED) {
        let mut bytes = Vec::new();
        let most = announced.min(KvHeader::SIZE as u64);
        file.take(most).read_to_end(&mut bytes).map_err(FileError::io(path))?;
        let decoded = KvHeader::decode(&bytes);
        kv = Some(decoded.map_err(|e| FileError::context(path)(ContextError::from(e)))?);
    }
    Ok(Inspection { head, kv, file_len })
}

/// The head, and how many bytes follow it.
fn read_head(file: &mut File, path: &Path, limits: &Limits) -> Result<(FrameHead, u64), FileError> {
    let total = file.metadata().map_err(FileError::io(path))?.len();
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
