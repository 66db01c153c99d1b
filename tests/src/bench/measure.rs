//! Medians of alternating rounds, and the memory that a call takes beyond what was there.

use std::fs;
use std::time::Instant;

use anyhow::Result;

/// One side of a comparison: a closure that runs once and gives seconds.
pub(crate) type Side<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// Seconds of each round, for every side.
pub(crate) fn alternate(rounds: usize, sides: &mut [Side<'_>]) -> Result<Vec<Vec<f64>>> {
    let mut seconds = vec![Vec::with_capacity(rounds); sides.len()];
    // The first round warms caches, pools and branch predictors, and is not counted.
    for round in 0..=rounds {
        for (side, seconds) in sides.iter_mut().zip(&mut seconds) {
            let once = side()?;
            if round > 0 {
                seconds.push(once);
            }
        }
    }
    Ok(seconds)
}

/// As [`alternate`], each side twice in a row, of which the second counts: on virtual machines memory that was not read for a second
/// can come back page by page, whoever reads it first.
pub(crate) fn alternate_warm(rounds: usize, sides: &mut [Side<'_>]) -> Result<Vec<Vec<f64>>> {
    let mut twice: Vec<Side<'_>> = Vec::with_capacity(sides.len());
    for side in sides {
        twice.push(Box::new(move || side().and_then(|_| side())));
    }
    alternate(rounds, &mut twice)
}

/// Seconds that `f` takes; its result is dropped outside of them.
pub(crate) fn seconds<T>(f: impl FnOnce() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    let result = f()?;
    let seconds = start.elapsed().as_secs_f64();
    drop(std::hint::black_box(result));
    Ok(seconds)
}

/// Seconds of one of `count` calls of `f`.
pub(crate) fn seconds_of_one<T>(count: u32, mut f: impl FnMut() -> Result<T>) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..count {
        std::hint::black_box(f()?);
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(count))
}

/// The middle value; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Median of `a / b` round by round.
pub(crate) fn median_ratio(a: &[f64], b: &[f64]) -> f64 {
    let ratios: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
    median(&ratios)
}

/// Bytes by which the process's resident memory peaks during `f` above what it holds before, and what `f` gives.
/// Linux only: the high-water mark of `/proc/self/status` after it was reset through `/proc/self/clear_refs`.
pub(crate) fn peak_extra<T>(f: impl FnOnce() -> Result<T>) -> Result<(Option<u64>, T)> {
    let reset = fs::write("/proc/self/clear_refs", "5").is_ok();
    let before = status("VmRSS:");
    let result = f()?;
    let peak = status("VmHWM:");
    let extra = before.zip(peak).filter(|_| reset).map(|(before, peak)| peak.saturating_sub(before));
    Ok((extra, result))
}

fn status(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}
