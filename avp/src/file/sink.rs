//! A context that arrives in slabs, into a file: one frame where it fits, else manifest and slabs.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use avp_handshake::Reject;
use avp_wire::slab::{Manifest, Slab};
use avp_wire::{EncodeOptions, ErrorCode, Frame, KvHeader, Metadata, Mode, PayloadType, ext};
use tempfile::NamedTempFile;

use super::FileError;
use super::write::{FRAME_MOST, SLAB_ENCODING, beside, persist, put};
use crate::incoming::{Key, SlabSink};

/// What is copied at a time when the file is put in order.
const COPY: usize = 1 << 20;

/// The file as far as it has come: beside its place, under no name that anybody looks for.
pub(crate) struct FileSink {
    target: PathBuf,
    metadata: Metadata,
    manifest: Manifest,
    key: Key,
    /// Where one transfer is wanted: which was whole first.
    only: Option<Arc<OnceLock<Key>>>,
    /// Made with the first slab: a manifest alone costs no file.
    partial: Option<Partial>,
    frame_most: u64,
}

struct Partial {
    file: NamedTempFile,
    layout: Layout,
}

enum Layout {
    /// The payload of one frame, each slab at its place.
    Whole,
    /// Frames in the order in which they came: where each begins, its length, its index.
    Slabs(Vec<(u64, u64, u32)>),
}

impl FileSink {
    /// What will be `target`.
    pub(crate) fn new(
        target: PathBuf,
        described: &Metadata,
        manifest: &Manifest,
        key: Key,
        only: Option<Arc<OnceLock<Key>>>,
    ) -> Self {
        let mut metadata = described.clone();
        // What a model read never comes with a context.
        let not_kept = [ext::KIND, ext::TRANSFER, ext::PAD, ext::TEXT];
        metadata.extra.retain(|key, _| !not_kept.contains(&key.as_str()));
        metadata.session_id.clear();
        metadata.payload_checksum = None;
        Self { target, metadata, manifest: *manifest, key, only, partial: None, frame_most: FRAME_MOST }
    }

    /// The refusal of a context where another one was wanted and came.
    pub(crate) fn taken() -> Reject {
        Reject::new(ErrorCode::Busy, "one context is received here, and it has come from elsewhere")
    }

    /// In slabs beyond `frame_most` bytes.
    #[cfg(test)]
    pub(super) fn in_slabs_beyond(self, frame_most: u64) -> Self {
        Self { frame_most, ..self }
    }

    fn partial(&mut self) -> Result<&mut Partial, FileError> {
        let begun = match self.partial.take() {
            Some(begun) => begun,
            None => self.begin()?,
        };
        Ok(self.partial.insert(begun))
    }

    fn begin(&self) -> Result<Partial, FileError> {
        let Self { target, manifest, .. } = self;
        let mut file = beside(target)?;
        if manifest.kv.payload_len().is_ok_and(|len| len as u64 <= self.frame_most) {
            file.write_all(&manifest.kv.encode()).map_err(FileError::io(target))?;
            return Ok(Partial { file, layout: Layout::Whole });
        }
        let frame = manifest.to_frame(self.metadata.clone(), &self.key.1);
        let frame = frame.encode(&EncodeOptions::default()).map_err(FileError::encode(target))?;
        put(&mut file, &frame, target)?;
        Ok(Partial { file, layout: Layout::Slabs(Vec::new()) })
    }

    fn take(&mut self, slab: &Slab) -> Result<(), FileError> {
        let (target, manifest, transfer) = (self.target.clone(), self.manifest, self.key.1.clone());
        let io = FileError::io(&target);
        let Partial { file, layout } = self.partial()?;
        let file = file.as_file_mut();
        match layout {
            Layout::Whole => {
                let bytes = slab.kv.as_bytes();
                let placed = manifest.runs(&slab.id).try_for_each(|(whole, part)| {
                    file.seek(SeekFrom::Start(whole.start as u64))?;
                    file.write_all(bytes.get(part).unwrap_or_default())
                });
                placed.map_err(io)
            }
            Layout::Slabs(frames) => {
                let start = file.seek(SeekFrom::End(0)).map_err(io)?;
                let payload = slab.kv.as_bytes().clone();
                let frame = manifest.slab_frame(Metadata::default(), &transfer, &slab.id, payload);
                let frame = frame.map_err(FileError::slabs(&target))?.encode(&SLAB_ENCODING);
                let frame = frame.map_err(FileError::encode(&target))?;
                let len = put(file, &frame, &target)?;
                frames.push((start, len, slab.index));
                Ok(())
            }
        }
    }

    fn end(mut self) -> Result<PathBuf, FileError> {
        self.partial()?;
        let Self { target, metadata, manifest, key: (_, transfer), partial, .. } = self;
        let Some(Partial { file, layout }) = partial else { return Ok(target) };
        match layout {
            Layout::Whole => frame_of(file.reopen(), &target, metadata, &manifest.kv)?,
            Layout::Slabs(frames) if frames.is_sorted_by_key(|frame| frame.2) => persist(file, &target)?,
            Layout::Slabs(mut frames) => {
                frames.sort_unstable_by_key(|frame| frame.2);
                let mut ordered = beside(&target)?;
                let manifest = manifest.to_frame(metadata, &transfer);
                let manifest = manifest.encode(&EncodeOptions::default());
                put(&mut ordered, &manifest.map_err(FileError::encode(&target))?, &target)?;
                let mut from = file.reopen().map_err(FileError::io(&target))?;
                for (start, len, _) in frames {
                    from.seek(SeekFrom::Start(start)).map_err(FileError::io(&target))?;
                    io::copy(&mut (&mut from).take(len), &mut ordered).map_err(FileError::io(&target))?;
                }
                persist(ordered, &target)?;
            }
        }
        Ok(target)
    }
}

/// Puts a head before the payload that lies in `payload`: it has a checksum, which is known only now.
fn frame_of(
    payload: io::Result<File>,
    target: &std::path::Path,
    metadata: Metadata,
    kv: &KvHeader,
) -> Result<(), FileError> {
    let io = || FileError::io(target);
    let mut payload = payload.map_err(io())?;
    let mut checksum = crc32fast::Hasher::new();
    let mut chunk = vec![0; COPY];
    let mut len = 0;
    loop {
        let read = payload.read(&mut chunk).map_err(io())?;
        if read == 0 {
            break;
        }
        checksum.update(chunk.get(..read).unwrap_or_default());
        len += read as u64;
    }
    let metadata = Metadata {
        payload_type: PayloadType::KvCache,
        mode: Mode::Latent,
        dtype: kv.dtype.into(),
        payload_checksum: Some(checksum.finalize()),
        ..metadata
    };
    let head = Frame::head_for(metadata, len, true).map_err(FileError::encode(target))?;
    let mut file = beside(target)?;
    file.write_all(&head).map_err(io())?;
    payload.seek(SeekFrom::Start(0)).map_err(io())?;
    io::copy(&mut BufReader::with_capacity(COPY, payload), &mut file).map_err(io())?;
    persist(file, target)
}

impl SlabSink for FileSink {
    type Whole = PathBuf;

    fn insert(&mut self, slab: &Slab) -> Result<(), Reject> {
        self.take(slab).map_err(|error| refusal(&error))
    }

    fn finish(self) -> Result<PathBuf, Reject> {
        if let Some(only) = &self.only
            && *only.get_or_init(|| self.key.clone()) != self.key
        {
            return Err(Self::taken());
        }
        self.end().map_err(|error| refusal(&error))
    }
}

/// The sender hears that it failed, not where files lie here.
fn refusal(error: &FileError) -> Reject {
    tracing::error!(%error, "a context could not be written");
    Reject::new(ErrorCode::Io, "the receiver could not write the context; see its log")
}
