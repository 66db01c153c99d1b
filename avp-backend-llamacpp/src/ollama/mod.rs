//! Models of an Ollama installation, used where they lie: Ollama need not run.
//!
//! [`ModelName`] is what follows `ollama:` in a model reference, [`Store`] the folder of manifests and blobs in which it is
//! looked up, and [`OllamaModel`] what is found: a GGUF file and the texts that come with it. [`OllamaServer::unload`] asks a
//! running server to let go of its own copy.

mod error;
mod files;
mod manifest;
mod model;
mod name;
mod server;
mod store;

pub use error::OllamaError;
pub use model::OllamaModel;
pub use name::{InvalidName, ModelName};
pub use server::{OllamaServer, ServerError, Unload};
pub use store::Store;
