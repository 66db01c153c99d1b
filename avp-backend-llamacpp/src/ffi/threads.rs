//! The threads that compute.

use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use llama_cpp_sys_2 as sys;

/// A thread sleeps at once when a pass is over. Between two passes others need the processors: the projection of a latent step,
/// the next token's choice.
const POLL: u32 = 0;

/// Threads that compute for one model. Where there are several, one pass at a time: within a pass they wait for each other without
/// sleeping, so that two passes on the same processors would each hold the other up.
pub(crate) struct Threads {
    /// None where the thread that asks computes alone.
    pool: Option<NonNull<sys::ggml_threadpool>>,
    count: i32,
    pass: Mutex<()>,
}

// SAFETY: the pool computes under the mutex alone, and is attached to no thread.
unsafe impl Send for Threads {}
// SAFETY: as above.
unsafe impl Sync for Threads {}

impl Threads {
    /// `count` threads, at least one and no more than there are processors: llama.cpp ends the process where one does not start.
    pub(crate) fn new(count: usize) -> Option<Self> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let count = count.min(processors);
        if count < 2 {
            return Some(Self { pool: None, count: 1, pass: Mutex::new(()) });
        }
        // SAFETY: takes nothing of ours.
        let mut params = unsafe { sys::ggml_threadpool_params_default(1) };
        // llama.cpp has room for as many threads as its mask has places.
        let count = i32::try_from(count.min(params.cpumask.len())).unwrap_or(1);
        params.n_threads = count;
        params.poll = POLL;
        // SAFETY: `params` lives through the call.
        let pool = NonNull::new(unsafe { sys::ggml_threadpool_new(&raw mut params) })?;
        Some(Self { pool: Some(pool), count, pass: Mutex::new(()) })
    }

    pub(super) fn count(&self) -> i32 {
        self.count
    }

    /// The pool as llama.cpp takes it: null where there is none.
    pub(super) fn as_ptr(&self) -> *mut sys::ggml_threadpool {
        self.pool.map_or(std::ptr::null_mut(), NonNull::as_ptr)
    }

    /// The threads for one pass.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, ()>> {
        self.pool.map(|_| self.pass.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let Some(pool) = self.pool else { return };
        // SAFETY: contexts keep their model alive, and that keeps its threads: nothing is attached any more.
        unsafe { sys::ggml_threadpool_free(pool.as_ptr()) };
    }
}
