//! A cache outside of llama.cpp: [`Image`].

use std::ops::Range;

use avp_backend::{BackendError, KvRange};
use avp_wire::{KvDtype, PooledBuf};
use rayon::prelude::*;

use crate::ffi::Context;
use crate::loaded::Loaded;

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
        let is_loaded = match cells == self.cells {
            true => context.set_state(&self.state),
            false => context.set_state(&self.resized(model, cells, cells)?.state),
        };
        if is_loaded { Ok(()) } else { Err(engine("llama.cpp does not take its own state back")) }
    }

    /// An image of so many cells with the first `tokens` of this one.
    pub(crate) fn resized(&self, model: &Loaded, cells: usize, tokens: usize) -> Result<Self, BackendError> {
        let mut to = Self::new(model, cells)?;
        let layout = &model.layout;
        for (from, to) in layout.layers(&self.state, self.cells).zip(layout.layers_mut(&mut to.state, cells))
        {
            layout.copy(from, to, (self.cells, cells), tokens).ok_or_else(shorter)?;
        }
        Ok(to)
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
        let layers: Vec<_> = layers(model.layout.layers(&self.state, self.cells), &range.layers);
        let read = |(planes, out): (_, &mut [u8])| {
            model.layout.read(planes, self.cells, &range.tokens, out).ok_or_else(shorter)
        };
        layers.into_par_iter().zip(out.par_chunks_exact_mut(each)).try_for_each(read)
    }

    /// The reverse of [`read`](Self::read).
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
        layers.into_par_iter().zip(bytes.par_chunks_exact(each)).try_for_each(write)
    }
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
