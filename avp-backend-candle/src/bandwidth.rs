//! How fast memory is: what bounds everything that reads each weight once.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

/// Values that are read or copied: 1 GiB, more than any cache holds.
const VALUES: usize = 256 << 20;
/// The best of so many rounds.
const ROUNDS: usize = 4;

/// Bytes a second: read on a processor by all threads, read and written on a GPU.
pub(crate) fn of(device: &Device) -> Result<f64> {
    let bytes = (VALUES * size_of::<f32>()) as f64;
    let mut best = f64::INFINITY;
    if device.is_cpu() {
        let mut values = Vec::new();
        values.try_reserve_exact(VALUES).map_err(candle_core::Error::wrap)?;
        values.resize(VALUES, 1f32);
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
