//! Memory of a device that processes share: the virtual memory management of the driver. It lives for as long as anybody has it mapped
//! or holds a descriptor of it, so the process that made it may end.

use std::ffi::c_void;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};

const POSIX: sys::CUmemAllocationHandleType =
    sys::CUmemAllocationHandleType_enum::CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;

/// Memory of a device, mapped here.
pub(super) struct Mapped {
    context: Arc<CudaContext>,
    handle: sys::CUmemGenericAllocationHandle,
    pub(super) address: sys::CUdeviceptr,
    pub(super) size: usize,
    is_mapped: bool,
}

impl Mapped {
    /// New memory of at least `bytes`.
    pub(super) fn create(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        context.bind_to_thread().w()?;
        let properties = properties(context);
        let size = rounded(&properties, bytes)?;
        let mut handle = 0;
        // SAFETY: both pointers are to values that live here, and the properties are complete.
        unsafe { sys::cuMemCreate(&raw mut handle, size, &raw const properties, 0) }.result().w()?;
        Self::map(context, handle, size)
    }

    /// Memory of at least `bytes` that another process made. A descriptor of anything else, or of less, is an error.
    pub(super) fn import(context: &Arc<CudaContext>, bytes: usize, descriptor: &OwnedFd) -> Result<Self> {
        context.bind_to_thread().w()?;
        let size = rounded(&properties(context), bytes)?;
        let number = usize::try_from(descriptor.as_raw_fd()).unwrap_or(usize::MAX);
        let mut handle = 0;
        // SAFETY: a descriptor is passed by its number in place of a pointer; the driver judges what it is of, and does not keep it.
        unsafe {
            sys::cuMemImportFromShareableHandle(
                &raw mut handle,
                std::ptr::without_provenance_mut::<c_void>(number),
                POSIX,
            )
        }
        .result()
        .w()?;
        Self::map(context, handle, size)
    }

    /// Maps all of `handle`, which is let go of with the mapping.
    fn map(
        context: &Arc<CudaContext>,
        handle: sys::CUmemGenericAllocationHandle,
        size: usize,
    ) -> Result<Self> {
        let mut mapped = Self { context: Arc::clone(context), handle, address: 0, size, is_mapped: false };
        let access = sys::CUmemAccessDesc {
            location: location(context),
            flags: sys::CUmemAccess_flags::CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
        };
        // SAFETY: the address range is reserved here and used for nothing else; the driver refuses to map more than there is.
        unsafe {
            sys::cuMemAddressReserve(&raw mut mapped.address, size, 0, 0, 0).result().w()?;
            sys::cuMemMap(mapped.address, size, 0, handle, 0).result().w()?;
            mapped.is_mapped = true;
            sys::cuMemSetAccess(mapped.address, size, &raw const access, 1).result().w()?;
        }
        Ok(mapped)
    }

    /// A descriptor of the memory, which keeps it alive.
    pub(super) fn export(&self) -> Result<OwnedFd> {
        let mut descriptor: i32 = -1;
        // SAFETY: for this kind of handle the driver writes a descriptor, which is nobody else's.
        unsafe {
            sys::cuMemExportToShareableHandle((&raw mut descriptor).cast(), self.handle, POSIX, 0)
                .result()
                .w()?;
            // The driver's own would be passed on to programs that this process starts.
            Ok(OwnedFd::from_raw_fd(descriptor).try_clone()?)
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // A copy that failed half-way may still be at it. Errors here have no better place to go than the next call.
        let _ = self.context.synchronize();
        // SAFETY: nothing uses the range any more, and each part is undone once.
        unsafe {
            if self.is_mapped {
                let _ = sys::cuMemUnmap(self.address, self.size).result();
            }
            if self.address != 0 {
                let _ = sys::cuMemAddressFree(self.address, self.size).result();
            }
            let _ = sys::cuMemRelease(self.handle).result();
        }
    }
}

fn location(context: &CudaContext) -> sys::CUmemLocation {
    // SAFETY: all zeros is a location of no kind. Its second word is the device's number; bindings of newer toolkits have a union
    // there.
    let mut location: sys::CUmemLocation = unsafe { std::mem::zeroed() };
    const { assert!(size_of::<sys::CUmemLocation>() == 2 * size_of::<i32>()) };
    location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    let ordinal = i32::try_from(context.ordinal()).unwrap_or(i32::MAX);
    // SAFETY: within the location, as asserted.
    unsafe { (&raw mut location).cast::<i32>().add(1).write(ordinal) };
    location
}

fn properties(context: &CudaContext) -> sys::CUmemAllocationProp {
    // SAFETY: all zeros asks for nothing.
    let mut properties: sys::CUmemAllocationProp = unsafe { std::mem::zeroed() };
    properties.type_ = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.requestedHandleTypes = POSIX;
    properties.location = location(context);
    properties
}

/// `bytes` up to the next size that memory comes in.
fn rounded(properties: &sys::CUmemAllocationProp, bytes: usize) -> Result<usize> {
    let mut unit = 0;
    let minimum = sys::CUmemAllocationGranularity_flags::CU_MEM_ALLOC_GRANULARITY_MINIMUM;
    // SAFETY: both pointers are to values that live here.
    unsafe { sys::cuMemGetAllocationGranularity(&raw mut unit, properties, minimum) }.result().w()?;
    match bytes.checked_next_multiple_of(unit) {
        Some(size) => Ok(size),
        None => candle_core::bail!("{bytes} bytes in units of {unit} of the device's memory"),
    }
}
