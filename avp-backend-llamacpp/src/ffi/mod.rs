//! The thin layer over llama.cpp: all `unsafe` of this crate. What it gives is safe to call, owns its memory, and holds
//! no pointer longer than the object that it points into.
//!
//! llama.cpp ends the process where its own assertions fail. What is handed to it is therefore checked before, here or by
//! the caller: token ids, lengths, positions, and files.
#![allow(unsafe_code)]

mod context;
#[cfg(test)]
mod grammar;
mod lanes;
mod log;
mod model;
mod table;
mod tap;
mod threads;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Once;

pub(crate) use context::{Context, ContextParams, Outputs};
pub(crate) use lanes::{add_scaled, fence, stream, unpack_q8, wide};
pub(crate) use model::{Model, ModelParams};
pub(crate) use table::{Mapped, Table};
pub(crate) use threads::Threads;

/// Starts llama.cpp, once in a process.
fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        log::to_tracing();
        // SAFETY: called once, before anything else of the library.
        unsafe { llama_cpp_sys_2::llama_backend_init() };
    });
}

/// Whether llama.cpp was built for a GPU that is here.
pub(crate) fn has_gpu() -> bool {
    start();
    // SAFETY: takes nothing.
    unsafe { llama_cpp_sys_2::llama_supports_gpu_offload() }
}

/// A path as C takes it; `None` if it holds a zero byte.
fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}
