//! A context of llama.cpp: one sequence with its cache.

use std::ptr::NonNull;
use std::sync::Arc;

use llama_cpp_sys_2 as sys;

use super::Model;
use super::tap::{TapCell, tapped};
use crate::gguf::GgmlType;

/// The sequence that is computed, and one that keeps cells taken between two users of a context.
const SEQUENCE: i32 = 0;
const KEEPER: i32 = 1;

/// Sizes and kinds of a context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ContextParams {
    /// Positions.
    pub(crate) capacity: u32,
    /// Positions that are computed in one pass.
    pub(crate) batch: u32,
    pub(crate) kv_type: GgmlType,
    pub(crate) flash_attention: bool,
    /// Whether a pass that gives the [`Last`](Outputs::Last) hidden state computes its logits too.
    pub(crate) head: bool,
}

/// Which hidden states a pass gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// That of the last position.
    Last,
    /// Those of all positions.
    All,
}

/// Why a pass failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecodeFailed(pub(crate) i32);

/// One sequence of a model. Not shared between threads, but it may move from one to another.
pub(crate) struct Context {
    raw: NonNull<sys::llama_context>,
    model: Arc<Model>,
    /// What the graph's callback writes to.
    tap: TapCell,
    batch: usize,
    head: bool,
    /// Cells from the first on that the keeper has, each with the position of its number.
    kept: usize,
    /// Whether nothing was written since it was made or cleared.
    is_clear: bool,
}

// SAFETY: a context is used by one thread at a time (`&mut self`), and llama.cpp ties none to a thread.
unsafe impl Send for Context {}
// SAFETY: what `&self` reads is written by llama.cpp through `&mut self` alone.
unsafe impl Sync for Context {}

impl Context {
    /// A context of `model`; `None` where llama.cpp has no memory for it. It says why to the log.
    pub(crate) fn new(model: Arc<Model>, params: ContextParams) -> Option<Self> {
        let tap = TapCell::new(model.layers());
        // SAFETY: takes nothing.
        let mut raw = unsafe { sys::llama_context_default_params() };
        raw.n_seq_max = 2;
        // llama.cpp ends the process at a pass of a context that has room for fewer outputs than sequences.
        raw.n_ctx = params.capacity.max(raw.n_seq_max);
        raw.n_batch = params.batch.max(raw.n_seq_max);
        raw.n_ubatch = raw.n_batch;
        raw.kv_unified = true;
        raw.n_threads = model.threads().count();
        raw.n_threads_batch = model.threads().count();
        raw.pooling_type = sys::LLAMA_POOLING_TYPE_NONE;
        raw.flash_attn_type = match params.flash_attention {
            true => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
            false => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
        };
        raw.type_k = params.kv_type.id();
        raw.type_v = params.kv_type.id();
        raw.swa_full = true;
        raw.no_perf = true;
        raw.cb_eval = Some(tapped);
        raw.cb_eval_user_data = tap.as_ptr();
        // SAFETY: the model lives as long as the context, and so does what the callback is given.
        let raw = NonNull::new(unsafe { sys::llama_init_from_model(model.as_ptr(), raw) })?;
        let threads = model.threads().as_ptr();
        // SAFETY: the context is alive, and the threads live as long as the model that it keeps.
        let batch = unsafe {
            sys::llama_attach_threadpool(raw.as_ptr(), threads, threads);
            sys::llama_n_batch(raw.as_ptr())
        };
        let batch = usize::try_from(batch).unwrap_or(1).max(1);
        Some(Self { raw, model, tap, batch, head: params.head, kept: 0, is_clear: true })
    }

    /// Positions that fit.
    pub(crate) fn capacity(&self) -> usize {
        // SAFETY: the context is alive.
        usize::try_from(unsafe { sys::llama_n_ctx(self.raw.as_ptr()) }).unwrap_or(0)
    }

    /// Runs over token ids at position `at` and after. Each id must be one of the vocabulary, and there must be room. Gives
    /// hidden states.
    pub(crate) fn decode_tokens(
        &mut self,
        ids: &[u32],
        at: usize,
        outputs: Outputs,
    ) -> Result<Vec<f32>, DecodeFailed> {
        let mut ids: Vec<i32> = ids.iter().map(|&id| i32::try_from(id).unwrap_or(-1)).collect();
        let total = ids.len();
        self.in_batches(total, at, outputs, |range| Fed {
            tokens: ids.get_mut(range).map_or(std::ptr::null_mut(), <[i32]>::as_mut_ptr),
            embeddings: std::ptr::null_mut(),
        })
    }

    /// The same over embeddings `[n, hidden_dim]`.
    pub(crate) fn decode_embeddings(
        &mut self,
        rows: &[f32],
        at: usize,
        outputs: Outputs,
    ) -> Result<Vec<f32>, DecodeFailed> {
        let width = self.model.hidden_dim().max(1);
        let mut rows = rows.to_vec();
        let total = rows.len() / width;
        self.in_batches(total, at, outputs, |range| Fed {
            tokens: std::ptr::null_mut(),
            embeddings: rows
                .get_mut(range.start * width..range.end * width)
                .map_or(std::ptr::null_mut(), <[f32]>::as_mut_ptr),
        })
    }

    /// Logits of the last position, if the last pass computed them.
    pub(crate) fn logits(&mut self) -> Option<Vec<f32>> {
        if self.tap.get().stops {
            return None;
        }
        // SAFETY: the context is alive.
        let logits = NonNull::new(unsafe { sys::llama_get_logits_ith(self.raw.as_ptr(), -1) })?;
        // SAFETY: llama.cpp keeps a row of the vocabulary's size until the next pass.
        Some(unsafe { std::slice::from_raw_parts(logits.as_ptr(), self.model.vocab_size()) }.to_vec())
    }

    /// Forgets positions from `len` on.
    pub(crate) fn truncate(&mut self, len: usize) -> bool {
        let from = i32::try_from(len).unwrap_or(i32::MAX);
        // SAFETY: the memory is this context's.
        unsafe { sys::llama_memory_seq_rm(self.memory(), SEQUENCE, from, -1) }
    }

    /// Forgets everything, and overwrites its cache: what was there may have been another's, or not finite. Cells that were
    /// taken stay so for [`take`](Self::take), where they can be written from here.
    pub(crate) fn clear(&mut self) {
        if std::mem::replace(&mut self.is_clear, true) {
            return;
        }
        let memory = self.memory();
        // SAFETY: as above.
        let len = unsafe { sys::llama_memory_seq_pos_max(memory, SEQUENCE) } + 1;
        let Some(planes) = self.planes_mut() else {
            // SAFETY: as above.
            return unsafe { sys::llama_memory_clear(memory, true) };
        };
        planes.into_iter().flatten().for_each(|plane| plane.fill(0));
        // SAFETY: as above.
        unsafe {
            sys::llama_memory_seq_cp(memory, SEQUENCE, KEEPER, -1, -1);
            sys::llama_memory_seq_rm(memory, SEQUENCE, -1, -1);
        }
        self.kept = usize::try_from(len).unwrap_or(0);
    }

    /// Begins with `len` positions from 0 on, whose elements must be written before the next pass: gives K and V of each layer
    /// as [`planes`](Self::planes) does. `None` where that many cells were not kept when it was [cleared](Self::clear), and for
    /// 0; then it is empty. llama.cpp itself takes cells by a pass or with a state alone.
    pub(crate) fn begin(&mut self, len: usize) -> Option<Vec<[&mut [u8]; 2]>> {
        let has = 0 < len && len <= std::mem::take(&mut self.kept);
        let memory = self.memory();
        self.is_clear = false;
        // SAFETY: the memory is this context's.
        unsafe {
            if has {
                let end = i32::try_from(len).unwrap_or(i32::MAX);
                sys::llama_memory_seq_cp(memory, KEEPER, SEQUENCE, 0, end);
            }
            sys::llama_memory_seq_rm(memory, KEEPER, -1, -1);
        }
        if has { self.planes_mut() } else { None }
    }

    /// Has passes fail while `is_wanted` is set.
    #[cfg(test)]
    pub(crate) fn fail_while(&mut self, is_wanted: &'static std::sync::atomic::AtomicBool) {
        unsafe extern "C" fn is_set(wanted: *mut std::ffi::c_void) -> bool {
            // SAFETY: it is the static below.
            unsafe { &*wanted.cast::<std::sync::atomic::AtomicBool>() }
                .load(std::sync::atomic::Ordering::SeqCst)
        }
        let data = std::ptr::from_ref(is_wanted).cast_mut().cast();
        // SAFETY: the context is alive, and what the callback is given lives for ever.
        unsafe { sys::llama_set_abort_callback(self.raw.as_ptr(), Some(is_set), data) };
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is alive; its memory lives as long.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    /// Bytes of its cache in llama.cpp's own layout.
    pub(crate) fn state_bytes(&mut self) -> usize {
        // SAFETY: the context is alive.
        unsafe { sys::llama_state_seq_get_size(self.raw.as_ptr(), SEQUENCE) }
    }

    /// Copies its cache to `state`. `false` if that is too short.
    pub(crate) fn state(&mut self, state: &mut [u8]) -> bool {
        // SAFETY: the buffer is as long as said.
        let written = unsafe {
            sys::llama_state_seq_get_data(self.raw.as_ptr(), state.as_mut_ptr(), state.len(), SEQUENCE)
        };
        written == state.len()
    }

    /// K and V of each layer where llama.cpp keeps them: as many cells as the cache has, position `i` in cell `i`, elements as in
    /// a state. `None` before the first pass, and where they are not in this process's memory.
    pub(crate) fn planes(&self) -> Option<Vec<[&[u8]; 2]>> {
        // SAFETY: the memory lives as long as the context, and is written through `&mut self` alone.
        let plane = |plane: NonNull<[u8]>| unsafe { plane.as_ref() };
        Some(self.tap.get().planes()?.into_iter().map(|planes| planes.map(plane)).collect())
    }

    fn planes_mut(&mut self) -> Option<Vec<[&mut [u8]; 2]>> {
        // SAFETY: as above, and no two tensors of a cache share memory in the architectures that are supported.
        let plane = |mut plane: NonNull<[u8]>| unsafe { plane.as_mut() };
        Some(self.tap.get().planes()?.into_iter().map(|planes| planes.map(plane)).collect())
    }

    /// Puts a cache in place of its own. It must be of this layout, made here: see `state.rs`.
    pub(crate) fn set_state(&mut self, state: &[u8]) -> bool {
        // SAFETY: the buffer is as long as said; its content was made by this crate for this context.
        let read = unsafe {
            sys::llama_state_seq_set_data(self.raw.as_ptr(), state.as_ptr(), state.len(), SEQUENCE)
        };
        read == state.len()
    }

    fn in_batches(
        &mut self,
        total: usize,
        at: usize,
        outputs: Outputs,
        mut feed: impl FnMut(std::ops::Range<usize>) -> Fed,
    ) -> Result<Vec<f32>, DecodeFailed> {
        self.tap.get_mut().hidden.clear();
        let mut from = 0;
        while from < total {
            let to = total.min(from + self.batch);
            let is_last = to == total;
            self.pass(at + from..at + to, outputs, is_last, feed(from..to))?;
            from = to;
        }
        Ok(std::mem::take(&mut self.tap.get_mut().hidden))
    }

    /// One pass over positions.
    fn pass(
        &mut self,
        positions: std::ops::Range<usize>,
        outputs: Outputs,
        is_last: bool,
        fed: Fed,
    ) -> Result<(), DecodeFailed> {
        let count = positions.len();
        let mut at: Vec<i32> = positions.map(|at| i32::try_from(at).unwrap_or(i32::MAX)).collect();
        let mut sequence = SEQUENCE;
        let mut sequences: Vec<*mut i32> = vec![&raw mut sequence; count];
        let mut counts = vec![1_i32; count];
        let mut wanted = vec![i8::from(outputs == Outputs::All); count];
        if let (true, Some(last)) = (is_last, wanted.last_mut()) {
            *last = 1;
        }
        let tap = self.tap.get_mut();
        tap.stops = outputs == Outputs::All || !self.head;
        tap.seen = false;
        let batch = sys::llama_batch {
            n_tokens: i32::try_from(count).unwrap_or(0),
            token: fed.tokens,
            embd: fed.embeddings,
            pos: at.as_mut_ptr(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: sequences.as_mut_ptr(),
            logits: wanted.as_mut_ptr(),
        };
        let threads = self.model.threads().lock();
        // SAFETY: every array has `n_tokens` entries and lives through the call.
        let outcome = unsafe { sys::llama_decode(self.raw.as_ptr(), batch) };
        drop(threads);
        match outcome {
            0 if self.tap.get().seen || !wanted.contains(&1) => Ok(()),
            0 => Err(DecodeFailed(i32::MAX)),
            code => Err(DecodeFailed(code)),
        }
    }
}

/// What a pass is fed: one of the two.
struct Fed {
    tokens: *mut i32,
    embeddings: *mut f32,
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing else owns it.
        unsafe { sys::llama_free(self.raw.as_ptr()) };
    }
}
