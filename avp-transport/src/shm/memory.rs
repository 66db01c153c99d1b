//! Segments: memory that can be mapped by two processes and never shrinks. What is `unsafe` about shared memory.
//!
//! # Why reading a peer's memory cannot crash
//! Access to a mapped page beyond the end of its file is a SIGBUS. [`PeerSegment::map`] takes only descriptors of memory
//! whose size is sealed, of the size that was said, with every page there, so no such page exists and none can come
//! about.
//!
//! # What a `&[u8]` of a peer's memory means
//! With the seal against writing the bytes are constant. Without it, between processes that trust each other, a peer that
//! breaks the rules can change them meanwhile. Nothing here or in the frame codec decides twice by such bytes: lengths and
//! metadata are copied from the socket, compressed payloads are copied before they are unpacked, and what reads the rest
//! reads numbers.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::fault::ShmFault;
use super::options::ShmMode;

/// What a file system of memory says it is (`TMPFS_MAGIC`); huge pages, which can run out on access, are another one.
const TMPFS: u64 = 0x0102_1994;
const PAGE: usize = 4096;
const FIXED_SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A mapped range; unmapped when it is dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process and not to a thread; access goes through the owners' rules below.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` alone gives no access.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, len: usize, access: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses an address range that nothing uses, and `len` is not 0, which it checks.
        let base = unsafe { rustix::mm::mmap(ptr::null_mut(), len, access, MapFlags::SHARED, fd, 0)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }

    fn advise(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: the range is ours and mapped, and the advice given here changes no contents.
        unsafe { rustix::mm::madvise(self.base.as_ptr().cast::<c_void>(), self.len, advice)? };
        Ok(())
    }

    /// The start of a part, if it lies within.
    fn part(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is at most `self.len`, so the result is in bounds or one past the end of the mapping.
        Some(unsafe { self.base.add(offset) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and whoever holds a reference into it holds this mapping alive.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Memory of this process that a peer may read.
#[derive(Debug)]
pub(super) struct OwnSegment {
    fd: OwnedFd,
    mapping: Mapping,
}

impl OwnSegment {
    /// `len` bytes, a multiple of the page size, all of them faulted in. The peer can neither resize nor write them.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let fd = memfd(len)?;
        let mapping = Mapping::new(fd.as_fd(), len, ProtFlags::READ | ProtFlags::WRITE)?;
        // A hint: it serves where huge pages of shared memory are switched on.
        let _ = mapping.advise(Advice::LinuxHugepage);
        match mapping.advise(Advice::LinuxPopulateWrite) {
            // Before Linux 5.14: pages come as they are written, which here is at once.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                for offset in (0..len).step_by(PAGE) {
                    if let Some(byte) = mapping.part(offset, 1) {
                        // SAFETY: the byte lies within the mapping, and nobody else knows of it yet.
                        unsafe { byte.write_volatile(0) };
                    }
                }
            }
            populated => populated?,
        }
        let seals = FIXED_SIZE;
        // The mapping made before stays writable; there cannot be another. Linux before 5.1 does not know the seal.
        rustix::fs::fcntl_add_seals(&fd, seals | SealFlags::FUTURE_WRITE)
            .or_else(|_| rustix::fs::fcntl_add_seals(&fd, seals))?;
        Ok(Self { fd, mapping })
    }

    pub(super) fn len(&self) -> usize {
        self.mapping.len
    }

    /// Where in this segment `bytes` lie, if they do.
    pub(super) fn offset_of(&self, bytes: &[u8]) -> Option<usize> {
        let offset = bytes.as_ptr().addr().checked_sub(self.mapping.base.addr().get())?;
        (offset.checked_add(bytes.len())? <= self.mapping.len).then_some(offset)
    }

    /// A descriptor to pass on.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// A part of the segment to read and write, `None` if it does not lie within.
    ///
    /// # Safety
    /// No other `Part` that overlaps may be alive.
    pub(super) unsafe fn part(self: &std::sync::Arc<Self>, offset: usize, len: usize) -> Option<Part> {
        let base = self.mapping.part(offset, len)?;
        Some(Part { base, len, _segment: std::sync::Arc::clone(self) })
    }
}

/// Exclusive access to a part of an [`OwnSegment`].
#[derive(Debug)]
pub(super) struct Part {
    base: NonNull<u8>,
    len: usize,
    _segment: std::sync::Arc<OwnSegment>,
}

// SAFETY: a part is memory that nobody else in this process accesses, like a `Box<[u8]>`.
unsafe impl Send for Part {}
// SAFETY: `&Part` only reads.
unsafe impl Sync for Part {}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the range lies in a mapping that the part keeps alive, its pages are zeroed or written, and by
        // the contract of `OwnSegment::part` nothing else in this process writes to it. The peer has no writable mapping.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl AsMut<[u8]> for Part {
    fn as_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_ref`, and `&mut self` excludes every other access in this process.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

/// A payload in memory of its own that nobody can write any more: its descriptor, and its size in bytes.
pub(super) fn sealed_copy(payload: &[u8]) -> io::Result<(OwnedFd, u64)> {
    let len = payload.len().max(1).next_multiple_of(PAGE);
    let fd = memfd(len)?;
    let mut rest = payload;
    let mut at = 0;
    while !rest.is_empty() {
        match rustix::io::pwrite(&fd, rest, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                rest = rest.get(written..).unwrap_or_default();
                at = at.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if payload.is_empty() {
        rustix::io::pwrite(&fd, &[0], 0)?;
    }
    rustix::fs::fcntl_add_seals(&fd, FIXED_SIZE | SealFlags::WRITE)?;
    Ok((fd, u64::try_from(len).unwrap_or(u64::MAX)))
}

fn memfd(len: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux before 6.3 does not know the flag that keeps memory from being executed as a program.
    let fd = rustix::fs::memfd_create(c"avp", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(c"avp", flags))?;
    rustix::fs::ftruncate(&fd, u64::try_from(len).unwrap_or(u64::MAX))?;
    Ok(fd)
}

/// Memory of the peer that this process reads.
#[derive(Debug)]
pub(super) struct PeerSegment {
    mapping: Mapping,
}

impl PeerSegment {
    /// Maps a descriptor from the peer, after everything is verified that keeps access from failing later.
    pub(super) fn map(fd: &OwnedFd, said: u64, mode: ShmMode) -> Result<Self, PeerMemoryError> {
        let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| ShmFault::NotMemory)?;
        let write = mode == ShmMode::Sealed;
        let due = if write { FIXED_SIZE | SealFlags::WRITE } else { FIXED_SIZE };
        if !seals.contains(due) {
            return Err(ShmFault::Unsealed { write }.into());
        }
        let system = rustix::fs::fstatfs(fd).map_err(|_| ShmFault::NotMemory)?;
        if u64::try_from(system.f_type).ok() != Some(TMPFS) {
            return Err(ShmFault::NotMemory.into());
        }
        // The size cannot change any more.
        let stat = rustix::fs::fstat(fd).map_err(|_| ShmFault::NotMemory)?;
        let got = u64::try_from(stat.st_size).unwrap_or(0);
        if got != said || got == 0 {
            return Err(ShmFault::Size { said, got }.into());
        }
        // Pages that are not there yet would be allocated at this side's cost when they are read.
        if u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < got {
            return Err(ShmFault::Sparse.into());
        }
        let len = usize::try_from(got).map_err(|_| ShmFault::Size { said, got })?;
        let mapping = Mapping::new(fd.as_fd(), len, ProtFlags::READ).map_err(PeerMemoryError::System)?;
        Ok(Self { mapping })
    }

    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.mapping.len).unwrap_or(u64::MAX)
    }

    /// A part of the segment, empty if it does not lie within.
    pub(super) fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        match self.mapping.part(offset, len) {
            // SAFETY: the range lies in a readable mapping that `self` keeps alive. No access can fail, and what another
            // process may write to it meanwhile is treated as the module documentation says.
            Some(base) => unsafe { std::slice::from_raw_parts(base.as_ptr(), len) },
            None => &[],
        }
    }
}

/// Why a peer's memory was not mapped.
#[derive(Debug)]
pub(super) enum PeerMemoryError {
    /// The peer broke the rules.
    Fault(ShmFault),
    /// The system did not map it.
    System(io::Error),
}

impl From<ShmFault> for PeerMemoryError {
    fn from(fault: ShmFault) -> Self {
        Self::Fault(fault)
    }
}
