//! How fast a GPU copies to and from pinned memory of the host: what bounds moving a KV cache.

use std::time::Instant;

use candle_core::Result;
use candle_core::cuda_backend::{CudaDevice, WrapErr};

/// Bytes of the pinned buffer.
const BUFFER: usize = 256 << 20;
/// The best of so many rounds.
const ROUNDS: usize = 5;

/// Bytes a second to the host, and from it.
pub(crate) fn copies(device: &CudaDevice) -> Result<(f64, f64)> {
    let stream = device.cuda_stream();
    let mut there = stream.alloc_zeros::<u8>(BUFFER).w()?;
    // Not write-combined, as caches are moved. SAFETY: the copy to the host writes all of it before the one back reads it.
    let mut here = unsafe { stream.context().alloc_pinned_with_flags::<u8>(BUFFER, 0) }.w()?;
    let (mut to_host, mut from_host) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        stream.synchronize().w()?;
        let start = Instant::now();
        stream.memcpy_dtoh(&there, &mut here).w()?;
        stream.synchronize().w()?;
        to_host = to_host.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        stream.memcpy_htod(&here, &mut there).w()?;
        stream.synchronize().w()?;
        from_host = from_host.min(start.elapsed().as_secs_f64());
    }
    Ok((BUFFER as f64 / to_host, BUFFER as f64 / from_host))
}
