//! GGUF files and Ollama's models in a build that cannot run them.

use std::path::Path;
use std::sync::Arc;

use avp_backend::{Backend, BackendError, ModelInfo};

use super::ModelOptions;

pub(super) fn load(model: &str, _: &ModelOptions) -> Result<Arc<dyn Backend>, BackendError> {
    Err(unsupported(model))
}

pub(super) fn describe(model: &str, _: &ModelOptions) -> Result<ModelInfo, BackendError> {
    Err(unsupported(model))
}

pub(super) fn try_file(file: &Path) -> Result<(), BackendError> {
    Err(unsupported(&file.display().to_string()))
}

fn unsupported(model: &str) -> BackendError {
    BackendError::Unsupported {
        what: format!("`{model}`: a GGUF or Ollama model in this build"),
        supported:
            "Hugging Face model folders and hub ids; a build with the feature `llamacpp` runs the others"
                .into(),
    }
}
