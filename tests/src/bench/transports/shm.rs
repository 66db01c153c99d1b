//! Shared memory: a large payload handed over by reference, and filling the buffer that goes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use avp_transport::TransportUrl;
use avp_transport::testing::Apart;
use avp_wire::{Frame, Metadata};

use super::{encoding, ends};
use crate::report::{Bound, Figure, Group};

const ROUNDS: usize = 9;
const SIZE: usize = 1 << 30;

pub(crate) fn run() -> Result<Group> {
    let directory = tempfile::tempdir()?;
    let url = TransportUrl::SharedMemory { path: directory.path().join("bench.sock") };
    let mut pair = Apart::new()?.pair(&url, &ends(false))?;
    let source = vec![3_u8; SIZE];
    let mut warm = vec![1_u8; SIZE];
    let (mut copies, mut fills, mut handed) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let copy = timed(|| black_box(&mut warm).copy_from_slice(black_box(&source)));
        let mut buffer = pair.client_pool().get(SIZE, 0);
        let fill = timed(|| buffer.copy_from_slice(black_box(&source)));
        let frame = Frame::new(Metadata::default(), buffer.freeze());
        let (received, took) = pair.hand_over(&frame, encoding(false))?;
        let last = received.payload.last().context("the payload is empty")?;
        anyhow::ensure!(received.payload.len() == SIZE && *last == 3, "another payload came");
        // The first round makes the arena.
        if round > 0 {
            copies.push(copy.as_secs_f64());
            fills.push(fill.as_secs_f64());
            handed.push(took.as_secs_f64());
        }
    }
    let mut group = Group::new("Shared memory, pooled");
    group.figures.push(
        Figure::milliseconds("1 GiB handed over after it was filled", &handed)
            .target(Bound::ValueAtMost(1.0)),
    );
    group.figures.push(
        Figure::rate("filling a warm buffer of 1 GiB", SIZE, &fills)
            .speed_beside("memcpy to warm memory", &fills, &copies)
            .target(Bound::RatioAtLeast(0.9)),
    );
    group.note(format!(
        "median of {ROUNDS} alternating rounds; the receiver waits on a thread of its own; handed over means from the \
         call of send to the frame in the receiver's hands, a view of the same memory"
    ));
    Ok(group)
}

fn timed(f: impl FnOnce()) -> Duration {
    let start = Instant::now();
    f();
    start.elapsed()
}
