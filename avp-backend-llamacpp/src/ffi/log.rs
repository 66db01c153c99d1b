//! What llama.cpp says goes to `tracing`, and its last error is kept.

use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, PoisonError};

use llama_cpp_sys_2::{GGML_LOG_LEVEL_ERROR, GGML_LOG_LEVEL_WARN, ggml_log_level, llama_log_set};

/// Has everything that llama.cpp and ggml say go to `tracing`.
pub(super) fn to_tracing() {
    // SAFETY: the callback lives for ever and takes no data.
    unsafe { llama_log_set(Some(say), std::ptr::null_mut()) };
}

/// The last error, of whatever was done last: where several models are loaded at once, perhaps of another one.
static LAST_ERROR: Mutex<String> = Mutex::new(String::new());

/// Lets the last error go.
pub(super) fn forget() {
    keep("");
}

/// The last error since it was let go.
pub(super) fn last_error() -> String {
    LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn keep(text: &str) {
    text.clone_into(&mut LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Errors are returned too, so that nothing here is louder than `debug`.
unsafe extern "C" fn say(level: ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp gives a string that ends with a zero byte and lives until this returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim_end();
    match level {
        _ if text.is_empty() => {}
        GGML_LOG_LEVEL_ERROR => {
            keep(text);
            tracing::debug!(target: "llama.cpp", "{text}");
        }
        GGML_LOG_LEVEL_WARN => tracing::debug!(target: "llama.cpp", "{text}"),
        _ => tracing::trace!(target: "llama.cpp", "{text}"),
    }
}
