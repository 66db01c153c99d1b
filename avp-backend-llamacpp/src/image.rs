//! A cache outside of llama.cpp: [`Image`], and what it shares with one inside: [`Planes`].

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread::ScopedJoinHandle;

use avp_backend::{BackendError, KvRange};
use avp_wire::{KvDtype, PooledBuf};

use crate::ffi::Context;
use crate::loaded::Loaded;
use crate::state::Layout;

/// Bytes that are worth a thread of their own.
const LEAST: usize = 1 << 20;

/// A state of llama.cpp with so many cells. Elements that were not written are unspecified.
pub(crate) struct Image {
    state: PooledBuf,
    cells: usize,
}

impl Image {
    pub(crate) fn new(model: &Loaded, cells: usize) -> Result<Self, BackendError> {
        let mut state = model.buffers.get_unfaulted(model.layout.state_bytes(cells), 0);
        model.layout.begin(&mut state, cells).ok_or_else(|| no_memory(cells))?;
        Ok(Self { state, cells })
    }

    /// What `context` holds: `cells` positions from 0 on.
    pub(crate) fn of(model: &Loaded, context: &mut Context, cells: usize) -> Result<Self, BackendError> {
        if let Some(planes) = Planes::of(model, context, cells) {
            let mut to = Self::new(model, cells)?;
            planes.copy(model, model.layout.layers_mut(&mut to.state, cells).collect(), cells)?;
            return Ok(to);
        }
        let mut state = model.buffers.get_unfaulted(context.state_bytes(), 0);
        if !context.state(&mut state) || !model.layout.is_state(&state, cells) {
            return Err(engine("llama.cpp keeps the cache in another layout than this version knows"));
        }
        Ok(Self { state, cells })
    }

    pub(crate) fn cells(&self) -> usize {
        self.cells
    }

    /// Puts the first `cells` positions, all of which must be written, in place of what `context` holds.
    pub(crate) fn load_into(
        &self,
        model: &Loaded,
        context: &mut Context,
        cells: usize,
    ) -> Result<(), BackendError> {
        if let Some(planes) = context.begin(cells) {
            return self.planes(model).copy(model, planes, cells);
        }
        let is_loaded = match cells == self.cells {
            true => context.set_state(&self.state),
            false => context.set_state(&self.resized(model, cells, cells)?.state),
        };
        if is_loaded { Ok(()) } else { Err(engine("llama.cpp does not take its own state back")) }
    }

    /// An image of so many cells with the first `tokens` of this one.
    pub(crate) fn resized(&self, model: &Loaded, cells: usize, tokens: usize) -> Result<Self, BackendError> {
        let mut to = Self::new(model, cells)?;
        self.planes(model).copy(model, model.layout.layers_mut(&mut to.state, cells).collect(), tokens)?;
        Ok(to)
    }

    pub(crate) fn planes(&self, model: &Loaded) -> Planes<'_> {
        Planes { layers: model.layout.layers(&self.state, self.cells).collect(), cells: self.cells }
    }

    /// The reverse of [`Planes::read`].
    pub(crate) fn write(
        &mut self,
        model: &Loaded,
        range: &KvRange,
        dtype: KvDtype,
        each: usize,
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        let cells = self.cells;
        let layers: Vec<_> = layers(model.layout.layers_mut(&mut self.state, cells), &range.layers);
        let write = |(planes, bytes): (_, &[u8])| {
            model.layout.write(planes, cells, &range.tokens, dtype, bytes).ok_or_else(shorter)
        };
        together(bytes.len(), layers.into_iter().zip(bytes.chunks_exact(each)).collect(), write)
    }
}

/// K and V of every layer, where they lie: in an image or in a context.
pub(crate) struct Planes<'a> {
    layers: Vec<[&'a [u8]; 2]>,
    cells: usize,
}

impl<'a> Planes<'a> {
    /// Those of a context that holds `len` positions, if they can be read there.
    pub(crate) fn of(model: &Loaded, context: &'a mut Context, len: usize) -> Option<Self> {
        let layout = &model.layout;
        // A context that holds anything else than these positions has a state of another size.
        let is_whole = context.state_bytes() == layout.state_bytes(len);
        let layers = context.planes()?;
        let cells = cells(layout, layers.iter().flatten().map(|plane| plane.len()))?;
        (is_whole && cells >= len).then_some(Self { layers, cells })
    }

    /// Copies the first `tokens` positions to other planes.
    fn copy(&self, model: &Loaded, to: Vec<[&mut [u8]; 2]>, tokens: usize) -> Result<(), BackendError> {
        let layout = &model.layout;
        let to_cells = cells(layout, to.iter().flatten().map(|plane| plane.len())).ok_or_else(shorter)?;
        let copy = |(from, to)| layout.copy(from, to, (self.cells, to_cells), tokens).ok_or_else(shorter);
        together(layout.state_bytes(tokens), self.layers.iter().copied().zip(to).collect(), copy)
    }

    /// Canonical KV of `range`, which must be within it, as [`Sequence::export_kv`](avp_backend::Sequence::export_kv) gives it;
    /// `each` bytes for a layer.
    pub(crate) fn read(
        &self,
        model: &Loaded,
        range: &KvRange,
        each: usize,
        out: &mut [u8],
    ) -> Result<(), BackendError> {
        let layers = layers(self.layers.iter(), &range.layers);
        let read = |(planes, out): (&[&[u8]; 2], &mut [u8])| {
            model.layout.read(*planes, self.cells, &range.tokens, out).ok_or_else(shorter)
        };
        together(out.len(), layers.into_iter().zip(out.chunks_exact_mut(each)).collect(), read)
    }
}

/// The cells of planes, if all have as many.
fn cells(layout: &Layout, mut plane_bytes: impl Iterator<Item = usize>) -> Option<usize> {
    let first = plane_bytes.next()?;
    plane_bytes.all(|bytes| bytes == first).then(|| layout.cells(first))?
}

/// Does jobs of equal size, `bytes` in all, on all processors.
///
/// Not on rayon's threads: a caller may hold a lock that another job of its pool waits for, which rayon could start meanwhile.
fn together<T: Send>(
    bytes: usize,
    jobs: Vec<T>,
    work: impl Fn(T) -> Result<(), BackendError> + Sync,
) -> Result<(), BackendError> {
    let threads = rayon::current_num_threads().min(jobs.len()).min(bytes / LEAST).max(1);
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let all = || std::iter::from_fn(next).try_for_each(&work);
    std::thread::scope(|scope| {
        // Where a thread does not start, the others do its share.
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, all).ok();
        let started: Vec<_> = (1..threads).filter_map(start).collect();
        let join = |thread: ScopedJoinHandle<'_, Result<(), BackendError>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        started.into_iter().map(join).fold(all(), Result::and)
    })
}

fn layers<T>(all: impl Iterator<Item = T>, range: &Range<usize>) -> Vec<T> {
    all.skip(range.start).take(range.len()).collect()
}

pub(crate) fn no_memory(tokens: usize) -> BackendError {
    BackendError::Engine(format!("no memory for a KV cache of {tokens} tokens; ask for fewer"))
}

fn engine(what: &str) -> BackendError {
    BackendError::Engine(what.to_owned())
}

fn shorter() -> BackendError {
    engine("a KV cache shorter than its shape")
}
