//! Context files in slabs: a manifest frame, then the frames of its slabs (docs/spec/slabs.md, 7).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use avp_backend::{Backend, Context, ContextImport, VerificationPolicy};
use avp_wire::ext::{self, FrameKind};
use avp_wire::slab::{Manifest, Reassembly, Received, SlabError, SlabId, TransferId};
use avp_wire::{BufferPool, Bytes, DecodeError, Frame, FrameHead, KvHeader, Metadata};

use super::FileError;
use super::read::{file_limits, read_head};
use crate::outgoing::{OutgoingContext, SlabSource, SourceError};

/// A file in slabs whose heads were read.
pub(super) struct SlabFile {
    path: PathBuf,
    metadata: Metadata,
    manifest: Manifest,
    transfer: TransferId,
    /// By index: where the payload begins, and the slab's head.
    slabs: Vec<Option<(u64, FrameHead)>>,
    file: Mutex<File>,
}

impl SlabFile {
    /// Reads the heads of the file; `None` if it does not begin with a manifest.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, FileError> {
        let mut file = File::open(path).map_err(FileError::io(path))?;
        let limits = file_limits();
        let (head, rest) = read_head(&mut file, path, &limits, 0)?;
        if !is_manifest(&head) {
            return Ok(None);
        }
        let payload = read_payload(&mut file, path, &head, rest, &BufferPool::new(0))?;
        let frame = head.into_frame(payload, &limits).map_err(FileError::decode(path))?;
        let (manifest, transfer) = Manifest::from_frame(&frame).map_err(FileError::slabs(path))?;
        let count = Reassembly::new(manifest, transfer.clone(), &limits).map_err(FileError::slabs(path))?;
        let mut slabs = vec![None; count.slab_count() as usize];
        let mut at = file.stream_position().map_err(FileError::io(path))?;
        let end = file.metadata().map_err(FileError::io(path))?.len();
        while at < end {
            let (head, rest) = read_head(&mut file, path, &limits, at)?;
            let start = end - rest;
            let len = u64::from(head.payload_len_on_wire());
            if rest < len {
                let source = DecodeError::Truncated { needed: head.header.frame_len(), got: end - at };
                return Err(FileError::decode(path)(source));
            }
            let index = index_of(&head, &manifest, &transfer).map_err(FileError::slabs(path))?;
            let place = slabs.get_mut(index as usize).ok_or(SlabError::NotSlab);
            *place.map_err(FileError::slabs(path))? = Some((start, head));
            at = start + len;
            file.seek(SeekFrom::Start(at)).map_err(FileError::io(path))?;
        }
        let missing = slabs.iter().filter(|slab| slab.is_none()).count();
        if missing > 0 {
            let first = slabs.iter().position(Option::is_none).unwrap_or(0);
            let source = SlabError::Missing { count: missing as u32, first: first as u32 };
            return Err(FileError::slabs(path)(source));
        }
        let (path, metadata) = (path.to_owned(), frame.metadata);
        Ok(Some(Self { path, metadata, manifest, transfer, slabs, file: Mutex::new(file) }))
    }

    /// Takes the slabs into `backend`, one by one.
    pub(super) fn load(
        &self,
        backend: &dyn Backend,
        policy: VerificationPolicy,
        pool: &BufferPool,
    ) -> Result<Context, FileError> {
        let import = ContextImport::begin(&self.metadata, &self.manifest.kv, backend, policy);
        let mut import = import.map_err(FileError::context(&self.path))?;
        let mut reassembly = Reassembly::new(self.manifest, self.transfer.clone(), &file_limits())
            .map_err(FileError::slabs(&self.path))?;
        for index in 0..self.slabs.len() {
            let frame = self.frame(index, pool)?;
            let taken = reassembly.insert(&frame).map_err(FileError::slabs(&self.path))?;
            if let Received::New(slab) = taken {
                import.insert(&slab.id, &slab.kv).map_err(FileError::context(&self.path))?;
            }
        }
        reassembly.finish().map_err(FileError::slabs(&self.path))?;
        Ok(import.finish(backend))
    }

    /// The context, in the slabs that the file has.
    pub(super) fn into_outgoing(self) -> OutgoingContext {
        let mut metadata = self.metadata.clone();
        for key in [ext::KIND, ext::TRANSFER] {
            metadata.extra.remove(key);
        }
        OutgoingContext::new(metadata, self.manifest, Arc::new(self))
    }

    /// The frame of slab `index`, not yet held against its digest.
    fn frame(&self, index: usize, pool: &BufferPool) -> Result<Frame, FileError> {
        let missing = || SlabError::Missing { count: 1, first: index as u32 };
        let (start, head) = self
            .slabs
            .get(index)
            .cloned()
            .flatten()
            .ok_or_else(missing)
            .map_err(FileError::slabs(&self.path))?;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start)).map_err(FileError::io(&self.path))?;
        let payload = read_payload(&mut file, &self.path, &head, u64::MAX, pool)?;
        head.into_frame(payload, &file_limits()).map_err(FileError::decode(&self.path))
    }
}

impl SlabSource for SlabFile {
    fn read(&self, manifest: &Manifest, id: &SlabId, out: &mut [u8]) -> Result<(), SourceError> {
        let found = self.manifest.index(id).filter(|_| *manifest == self.manifest);
        let index = found.ok_or(SlabError::OffGrid(*id))?;
        let frame = self.frame(index as usize, &BufferPool::new(0)).map_err(Box::new)?;
        // Held against its digest here: what the file lost is not for the receiver to find out.
        let mut alone = Reassembly::new(self.manifest, self.transfer.clone(), &file_limits())?;
        alone.insert(&frame)?;
        if frame.payload.len() != out.len() {
            return Err(SlabError::BufferLength { expected: out.len(), got: frame.payload.len() }.into());
        }
        out.copy_from_slice(&frame.payload);
        Ok(())
    }
}

pub(super) fn is_manifest(head: &FrameHead) -> bool {
    head.metadata.extra.get(ext::KIND).map(String::as_str) == Some(FrameKind::Manifest.as_str())
}

fn index_of(head: &FrameHead, manifest: &Manifest, transfer: &TransferId) -> Result<u32, SlabError> {
    let extra = &head.metadata.extra;
    if extra.get(ext::TRANSFER).map(String::as_str) != Some(transfer.as_str()) {
        return Err(SlabError::OtherTransfer);
    }
    let id: SlabId = extra.get(ext::SLAB).ok_or(SlabError::NotSlab)?.parse()?;
    manifest.index(&id).ok_or(SlabError::OffGrid(id))
}

/// The payload that belongs to `head`, of which `rest` bytes are left.
pub(super) fn read_payload(
    file: &mut File,
    path: &Path,
    head: &FrameHead,
    rest: u64,
    pool: &BufferPool,
) -> Result<Bytes, FileError> {
    let len = u64::from(head.payload_len_on_wire());
    if rest < len {
        let needed = head.header.frame_len();
        return Err(FileError::decode(path)(DecodeError::Truncated { needed, got: needed - len + rest }));
    }
    let len = usize::try_from(len).map_err(|_| FileError::io(path)(too_large()))?;
    let mut buffer = pool.get_unfaulted(len, KvHeader::SIZE);
    file.read_exact(&mut buffer).map_err(FileError::io(path))?;
    Ok(buffer.freeze())
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "more than this machine can address")
}
