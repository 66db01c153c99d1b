//! How fast memory is: what bounds everything that reads each weight once, and what moves caches.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

/// Values that are read or copied: 1 GiB, more than any cache holds.
const VALUES: usize = 256 << 20;
/// The best of so many rounds.
const ROUNDS: usize = 4;
/// The best of so many copies of a cache, which may be small.
const COPIES: usize = 15;
/// Bytes that one task copies.
const TASK: usize = 256 << 10;
/// Bytes of a page.
const PAGE: usize = 4096;

/// Bytes a second: read on a processor by all threads, read and written on a GPU.
pub(crate) fn of(device: &Device) -> Result<f64> {
    let bytes = (VALUES * size_of::<f32>()) as f64;
    let mut best = f64::INFINITY;
    if device.is_cpu() {
        let values = filled(VALUES, 1f32)?;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            std::hint::black_box(sum(&values));
            best = best.min(start.elapsed().as_secs_f64());
        }
        return Ok(bytes / best);
    }
    let values = Tensor::ones(VALUES, DType::F32, device)?;
    for _ in 0..ROUNDS {
        device.synchronize()?;
        let start = Instant::now();
        let copy = values.copy()?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
        drop(copy);
    }
    Ok(2.0 * bytes / best)
}

/// How fast bytes are copied between the memory that the engine computes in and the host's, in bytes a second: of
/// [`CandleBackend::copy_bandwidth`](crate::CandleBackend::copy_bandwidth).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct CopyBandwidth {
    /// To the host.
    pub to_host: f64,
    /// From the host.
    pub from_host: f64,
}

/// Of pinned memory on a GPU, else of `bytes` copied within memory by all threads.
pub(crate) fn copies(device: &Device, bytes: usize) -> Result<CopyBandwidth> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        let (to_host, from_host) = crate::cuda::timing::copies(device)?;
        return Ok(CopyBandwidth { to_host, from_host });
    }
    if !device.is_cpu() {
        candle_core::bail!("copies between the host and {device:?}");
    }
    let (mut from, mut to) = (filled(bytes.saturating_add(PAGE), 1)?, filled(bytes.saturating_add(PAGE), 2)?);
    let (from, to) = (on_page(&mut from, bytes), on_page(&mut to, bytes));
    let mut best = f64::INFINITY;
    for _ in 0..COPIES {
        let start = Instant::now();
        to.par_chunks_mut(TASK).zip(from.par_chunks(TASK)).for_each(|(to, from)| to.copy_from_slice(from));
        std::hint::black_box(&*to);
        best = best.min(start.elapsed().as_secs_f64());
    }
    let rate = bytes as f64 / best;
    Ok(CopyBandwidth { to_host: rate, from_host: rate })
}

/// The first `bytes` from the start of a page on. Arrays that lie a few bytes apart within their pages are copied at half the speed.
fn on_page(values: &mut [u8], bytes: usize) -> &mut [u8] {
    let at = values.as_ptr().align_offset(PAGE);
    values.get_mut(at..at.saturating_add(bytes)).unwrap_or_default()
}

fn filled<T: Copy>(len: usize, value: T) -> Result<Vec<T>> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(candle_core::Error::wrap)?;
    values.resize(len, value);
    Ok(values)
}

fn sum(values: &[f32]) -> f32 {
    let part = |values: &[f32]| {
        let (chunks, _) = values.as_chunks::<64>();
        let mut sums = [0f32; 64];
        for chunk in chunks {
            sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
        }
        sums.iter().sum::<f32>()
    };
    values.par_chunks(1 << 20).map(part).sum()
}
