//! Models by reference: a Hugging Face folder, a hub id, a GGUF file, or one of Ollama's.

#[cfg(feature = "llamacpp")]
mod llamacpp;
#[cfg(not(feature = "llamacpp"))]
#[path = "without_llamacpp.rs"]
mod llamacpp;
mod options;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use avp_backend::{Backend, BackendError, ModelInfo};
use avp_backend_candle::{CandleBackend, Shape};

pub use options::ModelOptions;

/// Loads a model: a Hugging Face folder or a hub id on candle; a GGUF file, or `ollama:NAME[:TAG]` from Ollama's folder, on
/// llama.cpp (feature `llamacpp`). Blocks while it reads.
///
/// A damaged GGUF file can end the process within llama.cpp: see [`ModelOptions::probe`].
///
/// # Errors
/// [`BackendError`] naming the file that is missing or wrong, the option that the model's engine does not have, or the kind of
/// model that this build cannot run.
pub fn load_backend(model: &str, options: &ModelOptions) -> Result<Arc<dyn Backend>, BackendError> {
    match Engine::of(model) {
        Engine::Candle => Ok(Arc::new(CandleBackend::load(model, &options.for_candle()?)?)),
        Engine::LlamaCpp => llamacpp::load(model, options),
    }
}

/// A model of a well-known shape with random weights, on candle: to measure how fast it would be.
///
/// # Errors
/// As [`load_backend`], of the options and the device.
pub fn random_backend(shape: Shape, options: &ModelOptions) -> Result<CandleBackend, BackendError> {
    CandleBackend::random(shape, &options.for_candle()?)
}

/// What a model is, without loading it. Blocks while it reads.
///
/// # Errors
/// As [`load_backend`].
pub fn describe_model(model: &str, options: &ModelOptions) -> Result<ModelInfo, BackendError> {
    match Engine::of(model) {
        Engine::Candle => CandleBackend::describe(model, &options.for_candle()?),
        Engine::LlamaCpp => llamacpp::describe(model, options),
    }
}

/// Loads a GGUF file and computes with it, in this process, which ends if llama.cpp's assertions fail: what a program does that
/// [`ModelOptions::probe`] runs.
///
/// # Errors
/// As [`load_backend`].
pub fn try_model(file: &Path) -> Result<(), BackendError> {
    llamacpp::try_file(file)
}

/// What runs a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// Hugging Face folders and hub ids.
    Candle,
    /// GGUF files and Ollama's models (feature `llamacpp`).
    LlamaCpp,
}

impl Engine {
    /// The engine of a model reference: llama.cpp's are `ollama:NAME`, paths that end in `.gguf`, and files that begin as GGUF
    /// files do, whatever they are called.
    #[must_use]
    pub fn of(model: &str) -> Self {
        let path = Path::new(model);
        let is_named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
        let is_folder = || path.join("config.json").is_file();
        if model.starts_with(OLLAMA) || (is_named && !is_folder()) || begins_as_gguf(path) {
            Self::LlamaCpp
        } else {
            Self::Candle
        }
    }

    /// Its name: `candle` or `llama.cpp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candle => "candle",
            Self::LlamaCpp => "llama.cpp",
        }
    }

    /// Whether this build has it.
    #[must_use]
    pub fn available(self) -> bool {
        match self {
            Self::Candle => true,
            Self::LlamaCpp => cfg!(feature = "llamacpp"),
        }
    }
}

fn begins_as_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    // Opening a pipe waits for somebody to write into it.
    path.is_file()
        && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && &magic == b"GGUF"
}

/// What references to Ollama's models begin with.
const OLLAMA: &str = "ollama:";

#[cfg(test)]
mod tests;
