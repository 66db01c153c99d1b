//! llama.cpp called as a program of its own would call it: the side that the backend is measured against.
//!
//! The one file of the benches with `unsafe`, since it calls C without the backend's layer in between.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::{NonNull, null_mut};

use anyhow::{Context as _, Result, ensure};
use llama_cpp_sys_2 as sys;

/// A model, loaded a second time beside the backend's: the file's pages are the same.
pub(super) struct Model(NonNull<sys::llama_model>);

/// A context for one sequence.
pub(super) struct Context<'a> {
    raw: NonNull<sys::llama_context>,
    pool: Option<Pool>,
    vocab_size: usize,
    model: PhantomData<&'a Model>,
}

/// Threads that stay between passes.
struct Pool(NonNull<sys::ggml_threadpool>);

/// Whose threads compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Threads {
    /// Started for every pass, as llama.cpp does by itself.
    ForEachPass,
    /// A pool attached to the context.
    Kept,
}

impl Model {
    /// Loads the file as llama.cpp's defaults have it.
    pub(super) fn load(path: &Path) -> Result<Self> {
        let path = CString::new(path.to_str().context("the file's name is not UTF-8")?)?;
        // SAFETY: may be called again; takes nothing.
        unsafe { sys::llama_backend_init() };
        // SAFETY: takes nothing.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.n_gpu_layers = 0;
        // SAFETY: the path ends with a zero byte and lives through the call.
        let model = unsafe { sys::llama_model_load_from_file(path.as_ptr(), params) };
        NonNull::new(model).map(Self).context("llama.cpp does not load the file")
    }

    fn vocab_size(&self) -> usize {
        // SAFETY: the model is loaded; its vocabulary lives as long.
        let count = unsafe { sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(self.0.as_ptr())) };
        usize::try_from(count).unwrap_or(0)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: nothing else owns it, and no context outlives it.
        unsafe { sys::llama_model_free(self.0.as_ptr()) };
    }
}

impl<'a> Context<'a> {
    /// A context with the sizes and kinds that the backend gives its own.
    pub(super) fn new(model: &'a Model, capacity: usize, threads: Threads) -> Result<Self> {
        let count = i32::try_from(rayon::current_num_threads())?;
        // SAFETY: takes nothing.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = u32::try_from(capacity)?;
        params.n_batch = u32::try_from(capacity.min(512))?;
        params.n_ubatch = params.n_batch;
        params.n_seq_max = 1;
        params.n_threads = count;
        params.n_threads_batch = count;
        params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_ENABLED;
        params.type_k = sys::GGML_TYPE_F16;
        params.type_v = sys::GGML_TYPE_F16;
        params.no_perf = true;
        // SAFETY: the model outlives the context by its lifetime.
        let raw = unsafe { sys::llama_init_from_model(model.0.as_ptr(), params) };
        let raw = NonNull::new(raw).context("llama.cpp makes no context")?;
        let vocab_size = model.vocab_size();
        let mut context = Self { raw, pool: None, vocab_size, model: PhantomData };
        if threads == Threads::Kept {
            let pool = Pool::new(count)?;
            // SAFETY: the context is alive, and is freed before its pool.
            unsafe { sys::llama_attach_threadpool(raw.as_ptr(), pool.0.as_ptr(), pool.0.as_ptr()) };
            context.pool = Some(pool);
        }
        Ok(context)
    }

    /// One pass over tokens behind those that are there; logits of the last one.
    pub(super) fn decode(&mut self, tokens: &[i32]) -> Result<&[f32]> {
        let count = i32::try_from(tokens.len())?;
        // SAFETY: the batch points at tokens, which llama.cpp only reads and only within the call; it refuses ids and
        // numbers of them that do not fit.
        let code = unsafe {
            sys::llama_decode(self.raw.as_ptr(), sys::llama_batch_get_one(tokens.as_ptr().cast_mut(), count))
        };
        ensure!(code == 0, "llama_decode gives {code}");
        // SAFETY: the context is alive.
        let logits = unsafe { sys::llama_get_logits_ith(self.raw.as_ptr(), -1) };
        let logits = NonNull::new(logits).context("llama.cpp gives no logits")?;
        // SAFETY: llama.cpp keeps a row of the vocabulary's size until the next pass, which borrows the context.
        Ok(unsafe { std::slice::from_raw_parts(logits.as_ptr(), self.vocab_size) })
    }

    /// Forgets all tokens.
    pub(super) fn clear(&mut self) {
        // SAFETY: the context is alive; its memory lives as long.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.raw.as_ptr()), false) };
    }

    /// Lets the pool's threads sleep while another side has its turn, instead of waiting busily.
    pub(super) fn rest(&self) {
        if let Some(pool) = &self.pool {
            // SAFETY: the pool is alive, and nothing is computed.
            unsafe { sys::ggml_threadpool_pause(pool.0.as_ptr()) };
        }
    }

    /// Wakes them again.
    pub(super) fn wake(&self) {
        if let Some(pool) = &self.pool {
            // SAFETY: the pool is alive.
            unsafe { sys::ggml_threadpool_resume(pool.0.as_ptr()) };
        }
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: nothing else owns it; the pool is a field and goes after it.
        unsafe {
            sys::llama_attach_threadpool(self.raw.as_ptr(), null_mut(), null_mut());
            sys::llama_free(self.raw.as_ptr());
        }
    }
}

impl Pool {
    fn new(threads: i32) -> Result<Self> {
        // SAFETY: takes nothing.
        let mut params = unsafe { sys::ggml_threadpool_params_default(threads) };
        // SAFETY: the parameters are read within the call.
        let pool = unsafe { sys::ggml_threadpool_new(&raw mut params) };
        NonNull::new(pool).map(Self).context("llama.cpp starts no threads")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: nothing else owns it; the context that used it is freed.
        unsafe { sys::ggml_threadpool_free(self.0.as_ptr()) };
    }
}
