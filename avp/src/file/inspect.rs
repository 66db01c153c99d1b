//! What a context file holds, without reading its tensors.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use avp_backend::ContextError;
use avp_wire::slab::Manifest;
use avp_wire::{BufferPool, DecodeError, Flags, FrameHead, KvHeader};

use super::FileError;
use super::read::{file_limits, read_head};
use super::slabs::{is_manifest, read_payload};

/// What [`inspect`] finds without reading a payload.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Inspection {
    /// Header and metadata.
    pub head: FrameHead,
    /// Shape of the KV cache, where the frame holds one and is not compressed.
    pub kv: Option<KvHeader>,
    /// Slabs of the context, where the file is in slabs; the head is the manifest's then.
    pub slabs: Option<u64>,
    /// Bytes of the file.
    pub file_len: u64,
}

/// Reads the head of the frame at `path`; never decompresses and never reads tensors.
///
/// # Errors
/// [`FileError`] if there is no valid head, or the file is shorter than it says.
pub fn inspect(path: &Path) -> Result<Inspection, FileError> {
    let mut file = File::open(path).map_err(FileError::io(path))?;
    let (head, rest) = read_head(&mut file, path, &file_limits(), 0)?;
    let announced = u64::from(head.payload_len_on_wire());
    let file_len = head.header.frame_len() - announced + rest;
    if rest < announced {
        let source = DecodeError::Truncated { needed: head.header.frame_len(), got: file_len };
        return Err(FileError::decode(path)(source));
    }
    if is_manifest(&head) {
        let payload = read_payload(&mut file, path, &head, rest, &BufferPool::new(0))?;
        let manifest = Manifest::decode(&payload).map_err(FileError::slabs(path))?;
        return Ok(Inspection { head, kv: Some(manifest.kv), slabs: Some(manifest.slab_count()), file_len });
    }
    let mut kv = None;
    if head.header.flags.contains(Flags::KV_CACHE) && !head.header.flags.contains(Flags::COMPRESSED) {
        let mut bytes = Vec::new();
        let most = announced.min(KvHeader::SIZE as u64);
        file.take(most).read_to_end(&mut bytes).map_err(FileError::io(path))?;
        let decoded = KvHeader::decode(&bytes);
        kv = Some(decoded.map_err(|e| FileError::context(path)(ContextError::from(e)))?);
    }
    Ok(Inspection { head, kv, slabs: None, file_len })
}
