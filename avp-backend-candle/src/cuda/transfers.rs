//! Keys and values between a GPU and the host: through pinned memory, which is kept for the next time, on a stream of copies, so
//! that one tensor is on its way while the one before is copied to where it belongs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, CudaView, CudaViewMut, PinnedHostSlice,
};
use candle_core::cuda_backend::{CudaDType, CudaDevice, CudaStorage, WrapErr};
use candle_core::{DType, Result, Storage, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::Sharing;

/// Tensors that are on their way to the host at once.
const UNDER_WAY: usize = 3;
/// Bytes of pinned buffers that are kept; what is more goes back to the system.
const KEPT: usize = 256 << 20;
/// Bytes that one task copies within the host.
const TASK: usize = 1 << 20;

/// What moves caches of one device.
#[derive(Debug)]
pub(crate) struct Transfers {
    copies: Arc<CudaStream>,
    compute: Arc<CudaStream>,
    buffers: Mutex<Vec<Pinned>>,
    /// What moves whole caches without the host, where the driver can.
    pub(crate) sharing: Option<Sharing>,
}

/// Pinned memory, and the copy that uses it last: nothing else waits for it, since [`open`](super::open) turned off what would.
#[derive(Debug)]
struct Pinned {
    bytes: PinnedHostSlice<u8>,
    last: Option<CudaEvent>,
}

impl Pinned {
    fn wait(&mut self) -> Result<()> {
        self.last.take().map_or(Ok(()), |last| last.synchronize().w())
    }

    /// The copy that `stream` was asked for uses it.
    fn used_on(&mut self, stream: &CudaStream) -> Result<()> {
        match stream.record_event(None) {
            Ok(last) => {
                self.last = Some(last);
                Ok(())
            }
            // What cannot be waited for later is waited for now.
            Err(_) => stream.synchronize().w(),
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Errors of the device come again with the next call.
        let _ = self.wait();
    }
}

/// A tensor whose bytes are on their way into `pinned`, and where they belong.
struct UnderWay<'a> {
    /// Waits for the copy when it is dropped, and so stands before what is copied.
    pinned: Pinned,
    tensor: Tensor,
    out: &'a mut [u8],
}

impl Transfers {
    pub(crate) fn new(device: &CudaDevice) -> Result<Self> {
        let compute = device.cuda_stream();
        let sharing = Sharing::new(device)?;
        Ok(Self { copies: compute.fork().w()?, compute, buffers: Mutex::default(), sharing })
    }

    /// Writes the bytes of tensors, each of which is made when the one before is under way, to as many pieces of `out` of `len` bytes.
    pub(crate) fn export(
        &self,
        out: &mut [u8],
        len: usize,
        tensor: impl Fn(usize) -> Result<Tensor>,
    ) -> Result<()> {
        let mut under_way = VecDeque::with_capacity(UNDER_WAY);
        for (index, out) in out.chunks_exact_mut(len).enumerate() {
            under_way.push_back(self.start(tensor(index)?, out)?);
            if under_way.len() == UNDER_WAY
                && let Some(first) = under_way.pop_front()
            {
                self.finish(first)?;
            }
        }
        under_way.into_iter().try_for_each(|rest| self.finish(rest))
    }

    fn start<'a>(&self, tensor: Tensor, out: &'a mut [u8]) -> Result<UnderWay<'a>> {
        let tensor = tensor.contiguous()?;
        let mut pinned = self.take(out.len())?;
        // The copy waits for what has been asked of the device so far, this tensor among it, and nothing waits for the copy.
        self.copies.join(&self.compute).w()?;
        {
            let (storage, layout) = tensor.storage_and_layout();
            let Storage::Cuda(storage) = &*storage else { candle_core::bail!("a tensor that is on no GPU") };
            let run = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
            let bytes = match tensor.dtype() {
                DType::F32 => bytes(storage.as_cuda_slice::<f32>()?.try_slice(run)),
                DType::F16 => bytes(storage.as_cuda_slice::<f16>()?.try_slice(run)),
                DType::BF16 => bytes(storage.as_cuda_slice::<bf16>()?.try_slice(run)),
                other => candle_core::bail!("a KV cache of type {other:?}"),
            };
            match bytes {
                Some(bytes) if bytes.len() == out.len() => {
                    self.copies.memcpy_dtoh(&bytes, &mut pinned.bytes).w()?;
                    pinned.used_on(&self.copies)?;
                }
                _ => candle_core::bail!("a KV cache shorter than its shape"),
            }
        }
        Ok(UnderWay { pinned, tensor, out })
    }

    fn finish(&self, under_way: UnderWay<'_>) -> Result<()> {
        let UnderWay { mut pinned, tensor, out } = under_way;
        pinned.wait()?;
        drop(tensor);
        let bytes = pinned.bytes.as_slice().w()?;
        out.par_chunks_mut(TASK).zip(bytes.par_chunks(TASK)).for_each(|(out, bytes)| {
            if let Some(bytes) = bytes.get(..out.len()) {
                out.copy_from_slice(bytes);
            }
        });
        self.give_back(pinned);
        Ok(())
    }

    /// Writes `bytes`, one run after another, to the places `at` of `storage`, each of `run` values. The host waits only until the
    /// bytes are in pinned memory.
    pub(crate) fn import<T: CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr>(
        &self,
        storage: &mut CudaStorage,
        bytes: &[u8],
        run: usize,
        at: impl Iterator<Item = usize>,
    ) -> Result<()> {
        let mut pinned = self.take(bytes.len())?;
        let room = pinned.bytes.as_mut_slice().w()?;
        room.par_chunks_mut(TASK).zip(bytes.par_chunks(TASK)).for_each(|(room, bytes)| {
            room.iter_mut().zip(bytes).for_each(|(room, byte)| *room = *byte);
        });
        // SAFETY: the copy below writes all of it before anything reads it, on the same stream.
        let mut staged = unsafe { self.compute.alloc::<u8>(bytes.len()) }.w()?;
        self.compute.memcpy_htod(&pinned.bytes, &mut staged).w()?;
        pinned.used_on(&self.compute)?;
        let target = storage.as_cuda_slice_mut::<T>()?;
        for (index, at) in at.enumerate() {
            let start = index * run * size_of::<T>();
            let source = staged.try_slice(start..start + run * size_of::<T>());
            // SAFETY: every bit pattern is a value of T, and a run starts at a multiple of its size.
            let source = source.and_then(|source| unsafe { source.transmute::<T>(run) });
            let place: Option<CudaViewMut<'_, T>> = target.try_slice_mut(at..at + run);
            let (Some(source), Some(mut place)) = (source, place) else {
                candle_core::bail!("a KV import beyond the cache");
            };
            self.compute.memcpy_dtod(&source, &mut place).w()?;
        }
        self.give_back(pinned);
        Ok(())
    }

    /// A pinned buffer of `len` bytes: one that was given back, or a new one.
    fn take(&self, len: usize) -> Result<Pinned> {
        let kept = {
            let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
            let at = buffers.iter().position(|buffer| buffer.bytes.len() == len);
            at.map(|at| buffers.swap_remove(at))
        };
        if let Some(mut kept) = kept {
            kept.wait()?;
            return Ok(kept);
        }
        // Not write-combined, which is slow to read. SAFETY: whoever takes a buffer writes all of it before it is read.
        let bytes = unsafe { self.compute.context().alloc_pinned_with_flags(len, 0) }.w()?;
        Ok(Pinned { bytes, last: None })
    }

    fn give_back(&self, buffer: Pinned) {
        let mut dropped = Vec::new();
        {
            let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
            buffers.push(buffer);
            while buffers.iter().map(|buffer| buffer.bytes.len()).sum::<usize>() > KEPT {
                dropped.push(buffers.remove(0));
            }
        }
        // Freeing waits for the device, and nobody else need wait with it.
        drop(dropped);
    }
}

fn bytes<T: CudaDType>(view: Option<CudaView<'_, T>>) -> Option<CudaView<'_, u8>> {
    let view = view?;
    let len = view.len() * size_of::<T>();
    // SAFETY: values of T are f32, f16 or bf16, whose bytes are all initialised.
    unsafe { view.transmute::<u8>(len) }
}
