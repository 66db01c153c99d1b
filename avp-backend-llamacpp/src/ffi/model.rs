//! A model in llama.cpp's memory, and its vocabulary.

use std::ffi::c_char;
use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::{Threads, c_path, log, start};

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelParams {
    /// Layers whose weights go to the GPU, where llama.cpp was built for one.
    pub(crate) gpu_layers: u32,
    /// Threads that compute.
    pub(crate) threads: usize,
}

/// A loaded model. Shared by threads: nothing changes it after it was loaded.
pub(crate) struct Model {
    raw: NonNull<sys::llama_model>,
    threads: Threads,
}

// SAFETY: llama.cpp's models and vocabularies are read only once loaded; each context synchronises for itself.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Loads the GGUF at `path`. Where llama.cpp refuses it, the error is what it says, which may be nothing.
    pub(crate) fn load(path: &Path, params: ModelParams) -> Result<Self, String> {
        start();
        log::forget();
        Self::try_load(path, params).ok_or_else(log::last_error)
    }

    fn try_load(path: &Path, params: ModelParams) -> Option<Self> {
        let path = c_path(path)?;
        // SAFETY: takes nothing.
        let mut raw = unsafe { sys::llama_model_default_params() };
        raw.n_gpu_layers = i32::try_from(params.gpu_layers).unwrap_or(i32::MAX);
        // SAFETY: the path ends with a zero byte and lives through the call; `raw` points at nothing of ours.
        let raw = NonNull::new(unsafe { sys::llama_model_load_from_file(path.as_ptr(), raw) })?;
        let Some(threads) = Threads::new(params.threads) else {
            // SAFETY: nothing else owns it.
            unsafe { sys::llama_model_free(raw.as_ptr()) };
            return None;
        };
        Some(Self { raw, threads })
    }

    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }

    pub(super) fn as_ptr(&self) -> *mut sys::llama_model {
        self.raw.as_ptr()
    }

    fn vocab(&self) -> *const sys::llama_vocab {
        // SAFETY: the model is loaded; its vocabulary lives as long.
        unsafe { sys::llama_model_get_vocab(self.as_ptr()) }
    }

    /// Rows of its token table, by its vocabulary.
    pub(crate) fn vocab_size(&self) -> usize {
        // SAFETY: the vocabulary is the model's.
        usize::try_from(unsafe { sys::llama_vocab_n_tokens(self.vocab()) }).unwrap_or(0)
    }

    /// Width of hidden states.
    pub(crate) fn hidden_dim(&self) -> usize {
        // SAFETY: the model is loaded.
        usize::try_from(unsafe { sys::llama_model_n_embd(self.as_ptr()) }).unwrap_or(0)
    }

    /// Number of its layers.
    pub(crate) fn layers(&self) -> usize {
        // SAFETY: the model is loaded.
        usize::try_from(unsafe { sys::llama_model_n_layer(self.as_ptr()) }).unwrap_or(0)
    }

    /// Whether its state is more, or something else, than keys and values.
    pub(crate) fn is_recurrent(&self) -> bool {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_is_recurrent(self.as_ptr()) || sys::llama_model_is_hybrid(self.as_ptr()) }
    }

    /// Positions of its sliding window; 0 where it has none.
    pub(crate) fn sliding_window(&self) -> i32 {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_n_swa(self.as_ptr()) }
    }

    /// How it rotates keys: pairs side by side (`true`) or in two halves.
    pub(crate) fn is_interleaved(&self) -> bool {
        // SAFETY: the model is loaded.
        unsafe { sys::llama_model_rope_type(self.as_ptr()) == sys::LLAMA_ROPE_TYPE_NORM }
    }

    /// Whether a generation ends with `token`.
    pub(crate) fn is_end(&self, token: u32) -> bool {
        i32::try_from(token).is_ok_and(|token| {
            // SAFETY: the vocabulary is the model's; ids outside of it are judged, not followed.
            (0..i32::try_from(self.vocab_size()).unwrap_or(0)).contains(&token)
                && unsafe { sys::llama_vocab_is_eog(self.vocab(), token) }
        })
    }

    /// Token ids of `text`. `None` where it is too long for llama.cpp.
    pub(crate) fn tokenize(&self, text: &str, add_special: bool) -> Option<Vec<u32>> {
        let len = i32::try_from(text.len()).ok()?;
        let mut ids = vec![0; text.len().checked_add(8)?];
        let encode = |ids: &mut Vec<i32>| {
            let most = i32::try_from(ids.len()).unwrap_or(i32::MAX);
            // SAFETY: text and ids are as long as said.
            unsafe {
                sys::llama_tokenize(
                    self.vocab(),
                    text.as_ptr().cast::<c_char>(),
                    len,
                    ids.as_mut_ptr(),
                    most,
                    add_special,
                    true,
                )
            }
        };
        let mut count = encode(&mut ids);
        if count < 0 && count != i32::MIN {
            ids.resize(usize::try_from(count.checked_neg()?).ok()?, 0);
            count = encode(&mut ids);
        }
        ids.truncate(usize::try_from(count).ok()?);
        ids.into_iter().map(|id| u32::try_from(id).ok()).collect()
    }

    /// Bytes of one token, as text writes it; control tokens as their names, or as nothing with `skip_special`. `None`
    /// for an id of no token.
    pub(crate) fn piece(&self, token: u32, skip_special: bool) -> Option<Vec<u8>> {
        let token = i32::try_from(token).ok()?;
        if usize::try_from(token).ok()? >= self.vocab_size() {
            return None;
        }
        let mut bytes = vec![0_u8; 64];
        let write = |bytes: &mut Vec<u8>| {
            let most = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
            // SAFETY: the buffer is as long as said, and the id is one of the vocabulary.
            unsafe {
                sys::llama_token_to_piece(
                    self.vocab(),
                    token,
                    bytes.as_mut_ptr().cast::<c_char>(),
                    most,
                    0,
                    !skip_special,
                )
            }
        };
        let mut count = write(&mut bytes);
        if count < 0 {
            bytes.resize(usize::try_from(count.checked_neg()?).ok()?, 0);
            count = write(&mut bytes);
        }
        bytes.truncate(usize::try_from(count).ok()?);
        Some(bytes)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: nothing else owns it; contexts hold the model alive.
        unsafe { sys::llama_model_free(self.as_ptr()) };
    }
}
