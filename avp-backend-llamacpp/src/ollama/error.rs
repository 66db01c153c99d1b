//! Why an Ollama model could not be found or used.

use std::io;
use std::path::PathBuf;

use super::name::InvalidName;

/// Errors of looking up an Ollama model. Text from manifests is escaped and cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OllamaError {
    /// The name is none.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// No Ollama models on this machine.
    #[error(
        "there are no Ollama models that can be read in {looked}; set OLLAMA_MODELS to Ollama's models folder, or run 'ollama pull' first"
    )]
    NoStore {
        /// Where they were looked for.
        looked: String,
    },
    /// The model is not there.
    #[error("there is no Ollama model '{name}' in {}; {there}; run 'ollama pull {name}'", store.display())]
    NotFound {
        /// The model.
        name: String,
        /// The models folder.
        store: PathBuf,
        /// Some that are there, in words.
        there: String,
    },
    /// The manifest does not say what it must.
    #[error("the manifest {} {problem}; run 'ollama pull' for the model again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that the manifest names is not there, or not as it says.
    #[error("the blob {} {problem}; run 'ollama pull' for the model again", path.display())]
    Blob {
        /// The blob.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The model needs more than its GGUF file.
    #[error(
        "the Ollama model '{name}' {what}, which is not supported; give a plain text model in the GGUF format"
    )]
    Unsupported {
        /// The model.
        name: String,
        /// What it has or is.
        what: String,
    },
    /// A file or folder could not be read.
    #[error("{} cannot be read: {source}; check its permissions", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
