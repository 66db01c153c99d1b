//! A context that arrives in slabs, into a file: one frame where it fits, else manifest and slabs.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use avp_handshake::Reject;
use avp_wire::slab::{Manifest, Slab, TransferId};
use avp_wire::{EncodeOptions, ErrorCode, Frame, KvHeader, Metadata, Mode, PayloadType, ext};
use tempfile::NamedTempFile;

use super::FileError;
use super::write::{FRAME_MOST, SLAB_ENCODING, beside, manifest_frame, persist, put};
use crate::incoming::SlabSink;

/// What is copied at a time when the file is put in order.
const COPY: usize = 1 << 20;

/// The file as far as it has come: beside its place, under no name that anybody looks for.
pub(crate) struct FileSink {
    target: PathBuf,
    metadata: Metadata,
    manifest: Manifest,
    transfer: TransferId,
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
    /// Begins a file that will be `target`.
    pub(crate) fn begin(
        target: PathBuf,
        described: &Metadata,
        manifest: &Manifest,
        transfer: &TransferId,
    ) -> Result<Self, FileError> {
        Self::begin_with(target, described, manifest, transfer, FRAME_MOST)
    }

    pub(super) fn begin_with(
        target: PathBuf,
        described: &Metadata,
        manifest: &Manifest,
        transfer: &TransferId,
        frame_most: u64,
    ) -> Result<Self, FileError> {
        let mut metadata = described.clone();
        metadata.extra.retain(|key, _| ![ext::KIND, ext::TRANSFER, ext::PAD].contains(&key.as_str()));
        metadata.session_id.clear();
        metadata.payload_checksum = None;
        let mut file = beside(&target)?;
        let fits = manifest.kv.payload_len().is_ok_and(|len| len as u64 <= frame_most);
        let layout = if fits {
            file.write_all(&manifest.kv.encode()).map_err(FileError::io(&target))?;
            Layout::Whole
        } else {
            let frame = manifest_frame(manifest, metadata.clone(), transfer);
            let frame = frame.encode(&EncodeOptions::default()).map_err(FileError::encode(&target))?;
            put(&mut file, &frame, &target)?;
            Layout::Slabs(Vec::new())
        };
        Ok(Self { target, metadata, manifest: *manifest, transfer: transfer.clone(), file, layout })
    }

    fn take(&mut self, slab: &Slab) -> Result<(), FileError> {
        let io = FileError::io(&self.target);
        let file = self.file.as_file_mut();
        match &mut self.layout {
            Layout::Whole => {
                let bytes = slab.kv.as_bytes();
                let placed = self.manifest.runs(&slab.id).try_for_each(|(whole, part)| {
                    file.seek(SeekFrom::Start(whole.start as u64))?;
                    file.write_all(bytes.get(part).unwrap_or_default())
                });
                placed.map_err(io)
            }
            Layout::Slabs(frames) => {
                let start = file.seek(SeekFrom::End(0)).map_err(io)?;
                let payload = slab.kv.as_bytes().clone();
                let frame = self.manifest.slab_frame(Metadata::default(), &self.transfer, &slab.id, payload);
                let frame = frame.map_err(FileError::slabs(&self.target))?.encode(&SLAB_ENCODING);
                let frame = frame.map_err(FileError::encode(&self.target))?;
                let len = put(file, &frame, &self.target)?;
                frames.push((start, len, slab.index));
                Ok(())
            }
        }
    }

    fn end(self) -> Result<PathBuf, FileError> {
        let Self { target, metadata, manifest, transfer, file, layout } = self;
        match layout {
            Layout::Whole => frame_of(file.reopen(), &target, metadata, &manifest.kv)?,
            Layout::Slabs(frames) if frames.is_sorted_by_key(|frame| frame.2) => persist(file, &target)?,
            Layout::Slabs(mut frames) => {
                frames.sort_unstable_by_key(|frame| frame.2);
                let mut ordered = beside(&target)?;
                let manifest = manifest_frame(&manifest, metadata, &transfer);
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
        self.end().map_err(|error| refusal(&error))
    }
}

/// The sender hears that it failed, not where files lie here.
pub(crate) fn refusal(error: &FileError) -> Reject {
    tracing::error!(%error, "a context could not be written");
    Reject::new(ErrorCode::Io, "the receiver could not write the context; see its log")
}
