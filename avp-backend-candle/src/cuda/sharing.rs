//! Whole caches in memory of the device that a descriptor stands for and another process maps.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{
    CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, result, sys,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, WrapErr};
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage};
use half::{bf16, f16};

use super::mapping::Mapped;
use crate::cache::KvCache;

/// What shares caches of one device.
#[derive(Debug)]
pub(crate) struct Sharing {
    compute: Arc<CudaStream>,
    device: String,
}

impl Sharing {
    /// `None` where the driver does not share memory by descriptors.
    pub(crate) fn new(device: &CudaDevice) -> Result<Option<Self>> {
        use sys::CUdevice_attribute as Attribute;
        let compute = device.cuda_stream();
        let context = compute.context();
        for needed in [
            Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
            Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED,
        ] {
            // A driver that does not know what is asked has it not.
            if !matches!(context.attribute(needed), Ok(1..)) {
                return Ok(None);
            }
        }
        let Ok(uuid) = context.uuid() else { return Ok(None) };
        let hex: String = uuid.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Some(Self { device: format!("cuda:{hex}"), compute }))
    }

    /// The device, by the same name in all processes of this machine.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// The canonical KV of a whole cache in new memory.
    pub(crate) fn share(&self, cache: &KvCache) -> Result<OwnedFd> {
        let planes = Planes::of(cache, cache.len());
        let memory = Mapped::create(self.compute.context(), planes.bytes()?)?;
        let mut to = memory.address;
        for index in 0..planes.layers {
            let layer = cache.layer(index)?;
            for tensor in [&layer.k, &layer.v] {
                let (storage, layout) = tensor.storage_and_layout();
                let Storage::Cuda(storage) = &*storage else {
                    candle_core::bail!("a tensor that is on no GPU")
                };
                match storage.dtype() {
                    DType::F32 => self.copy_out::<f32>(storage, layout, &planes, to)?,
                    DType::F16 => self.copy_out::<f16>(storage, layout, &planes, to)?,
                    DType::BF16 => self.copy_out::<bf16>(storage, layout, &planes, to)?,
                    other => candle_core::bail!("a KV cache of type {other:?}"),
                }
                to += planes.tensor() as u64;
            }
        }
        // Memory comes in large units, and what is behind the planes is not the other process's.
        let (rest, stream) = (memory.address + memory.size as u64 - to, self.compute.cu_stream());
        // SAFETY: from where the planes end to the end of the memory, which is mapped until the stream has ended it.
        unsafe { result::memset_d8_async(to, 0, rest as usize, stream) }.w()?;
        // The other process knows nothing of this one's streams.
        self.compute.synchronize().w()?;
        memory.export()
    }

    fn copy_out<T: CudaDType + DeviceRepr>(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
        planes: &Planes,
        to: u64,
    ) -> Result<()> {
        let slice = storage.as_cuda_slice::<T>()?;
        planes.check(slice.len(), layout, size_of::<T>())?;
        let (from, _reading) = slice.device_ptr(&self.compute);
        for head in 0..planes.heads {
            let (from, to) = (from + planes.in_cache(head), to + planes.in_memory(head));
            // SAFETY: both runs lie within their memory, by the check above and by the size that it was made of; the memory
            // outlives the copy, since it is not unmapped before the stream has ended it.
            unsafe { result::memcpy_dtod_async(to, from, planes.run, self.compute.cu_stream()) }.w()?;
        }
        Ok(())
    }

    /// Fills all layers of `cache`, which must have room, with the canonical KV of `tokens` positions, of the type of the cache.
    pub(crate) fn take(&self, cache: &mut KvCache, tokens: usize, memory: &OwnedFd) -> Result<()> {
        let planes = Planes::of(cache, tokens);
        let memory = Mapped::import(self.compute.context(), planes.bytes()?, memory)?;
        let mut from = memory.address;
        for index in 0..planes.layers {
            let layer = cache.layer_mut(index)?;
            for tensor in [&layer.k, &layer.v] {
                tensor.inplace_op1(&CopyIn { from, planes: &planes, compute: &self.compute })?;
                from += planes.tensor() as u64;
            }
        }
        self.compute.synchronize().w()?;
        for index in 0..planes.layers {
            cache.fill(index, &(0..tokens));
        }
        Ok(())
    }
}

/// Copies shared memory into a cache tensor `[1, kv_heads, capacity, head_dim]`.
struct CopyIn<'a> {
    from: u64,
    planes: &'a Planes,
    compute: &'a Arc<CudaStream>,
}

impl CopyIn<'_> {
    fn copy<T: CudaDType + DeviceRepr>(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let slice = storage.as_cuda_slice_mut::<T>()?;
        self.planes.check(slice.len(), layout, size_of::<T>())?;
        let (to, _writing) = slice.device_ptr_mut(self.compute);
        for head in 0..self.planes.heads {
            let (from, to) = (self.from + self.planes.in_memory(head), to + self.planes.in_cache(head));
            // SAFETY: as in `copy_out`: mapped are as many bytes as the planes have, or the driver would have refused.
            unsafe { result::memcpy_dtod_async(to, from, self.planes.run, self.compute.cu_stream()) }.w()?;
        }
        Ok(())
    }
}

impl InplaceOp1 for CopyIn<'_> {
    fn name(&self) -> &'static str {
        "take-shared-kv"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("memory of a GPU goes into caches on that GPU alone")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        match storage.dtype() {
            DType::F32 => self.copy::<f32>(storage, layout),
            DType::F16 => self.copy::<f16>(storage, layout),
            DType::BF16 => self.copy::<bf16>(storage, layout),
            other => candle_core::bail!("a KV cache of type {other:?}"),
        }
    }
}

/// Sizes of what is shared, in bytes where nothing else is said.
struct Planes {
    layers: usize,
    heads: usize,
    /// The positions of one head.
    run: usize,
    /// The capacity of one head.
    row: usize,
}

impl Planes {
    fn of(cache: &KvCache, tokens: usize) -> Self {
        let shape = cache.shape();
        let position = shape.head_dim * shape.dtype.size_in_bytes();
        Self {
            layers: shape.layers,
            heads: shape.kv_heads,
            run: tokens * position,
            row: cache.capacity() * position,
        }
    }

    /// Keys, or values, of one layer.
    fn tensor(&self) -> usize {
        self.heads * self.run
    }

    fn bytes(&self) -> Result<usize> {
        match self.layers.checked_mul(2).and_then(|tensors| tensors.checked_mul(self.tensor())) {
            Some(bytes @ 1..) => Ok(bytes),
            _ => candle_core::bail!("no KV cache to share, or one beyond all memory"),
        }
    }

    /// Where the run of a head begins in a cache tensor.
    fn in_cache(&self, head: usize) -> u64 {
        (head * self.row) as u64
    }

    /// Where it begins in what is shared of a tensor.
    fn in_memory(&self, head: usize) -> u64 {
        (head * self.run) as u64
    }

    /// That a tensor of `values` is as long as its shape, and whole.
    fn check(&self, values: usize, layout: &Layout, size: usize) -> Result<()> {
        let is_whole = layout.is_contiguous() && layout.start_offset() == 0;
        if !is_whole || values * size < self.heads * self.row || self.run > self.row {
            candle_core::bail!("a KV cache shorter than its shape");
        }
        Ok(())
    }
}
