//! Writing context files: whole or not at all.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use avp_backend::{Context, ContextStamp};
use avp_wire::{BufferPool, EncodeOptions, EncodedFrame, Metadata, ext};
use tempfile::NamedTempFile;

use super::FileError;
use crate::outgoing::OutgoingContext;

/// Beyond this many bytes a context is written in slabs: a frame counts in 32 bits, and its head needs room too.
pub(super) const FRAME_MOST: u64 = u32::MAX as u64 - (1 << 20);
/// Slabs of a file carry a digest each.
pub(super) const SLAB_ENCODING: EncodeOptions =
    EncodeOptions { compression: None, checksum: false, align: true };

/// Writes `context` to `path`, with checksum and aligned tensors: beside the path first, then renamed, so that a
/// full disk or a crash leaves no partial file. One frame where it fits, else a manifest and slabs. Gives the file's
/// bytes.
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
    save(context, path, model_hash, text, pool, FRAME_MOST)
}

/// [`save_context`] in slabs beyond `frame_most` bytes.
pub(super) fn save(
    context: &Context,
    path: &Path,
    model_hash: Option<&str>,
    text: Option<&str>,
    pool: &BufferPool,
    frame_most: u64,
) -> Result<u64, FileError> {
    let stamp = ContextStamp {
        model_hash: model_hash.map(str::to_owned),
        extensions: true,
        ..ContextStamp::default()
    };
    let mut metadata = context.metadata(&stamp);
    if let Some(value) = text.and_then(crate::text_key::encode) {
        metadata.extra.insert(ext::TEXT.to_owned(), value);
    }
    let outgoing = OutgoingContext::of_context(context).map_err(FileError::context(path))?;
    let mut file = beside(path)?;
    let written = if outgoing.kv_bytes() <= frame_most {
        let mut frame = context.to_frame(&stamp, pool).map_err(FileError::context(path))?;
        frame.metadata = metadata;
        let options = EncodeOptions { align: true, ..EncodeOptions::default() };
        put(&mut file, &frame.encode(&options).map_err(FileError::encode(path))?, path)?
    } else {
        write_slabs(file.as_file_mut(), path, &outgoing, metadata, pool)?
    };
    persist(file, path)?;
    Ok(written)
}

/// A temporary file in the folder of `path`.
pub(super) fn beside(path: &Path) -> Result<NamedTempFile, FileError> {
    let path = &regular(path)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    NamedTempFile::new_in(folder).map_err(FileError::io(path))
}

/// Gives a file that is written its name.
pub(super) fn persist(file: NamedTempFile, path: &Path) -> Result<(), FileError> {
    file.as_file().sync_all().map_err(FileError::io(path))?;
    file.persist(regular(path)?).map(drop).map_err(|error| FileError::io(path)(error.error))
}

/// Where `path` leads. Only a regular file is replaced, or nothing: not a device or a pipe, and not a link by what it names.
fn regular(path: &Path) -> Result<PathBuf, FileError> {
    let io = FileError::io(path);
    match path.symlink_metadata() {
        Ok(there) if there.is_file() => Ok(path.to_owned()),
        Ok(there) if there.is_symlink() => path.canonicalize().map_err(io).and_then(|path| regular(&path)),
        Ok(_) => Err(io(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is a folder, a pipe or a device; name a file",
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(path.to_owned()),
        Err(error) => Err(io(error)),
    }
}

pub(super) fn put(file: &mut impl Write, frame: &EncodedFrame, path: &Path) -> Result<u64, FileError> {
    file.write_all(&frame.head).map_err(FileError::io(path))?;
    file.write_all(&frame.payload).map_err(FileError::io(path))?;
    Ok(frame.len() as u64)
}

fn write_slabs(
    file: &mut File,
    path: &Path,
    context: &OutgoingContext,
    metadata: Metadata,
    pool: &BufferPool,
) -> Result<u64, FileError> {
    let manifest = context.manifest().to_frame(metadata, context.transfer());
    let manifest = manifest.encode(&EncodeOptions::default()).map_err(FileError::encode(path))?;
    let mut written = put(file, &manifest, path)?;
    for index in 0.. {
        let slab = context.slab(index, Metadata::default(), pool);
        let Some(frame) = slab.map_err(|error| FileError::source(path, error))? else { break };
        written += put(file, &frame.encode(&SLAB_ENCODING).map_err(FileError::encode(path))?, path)?;
    }
    Ok(written)
}
