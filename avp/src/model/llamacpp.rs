//! GGUF files and Ollama's models.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use avp_backend::{Backend, BackendError, ModelInfo};
use avp_backend_llamacpp::ollama::{ModelName, OllamaServer, Store, Unload};
use avp_backend_llamacpp::{LlamaCppBackend, LoadOptions};

use super::ModelOptions;
use super::options::refuse;

/// How long Ollama may take to let go of a model.
const UNLOAD: Duration = Duration::from_secs(10);

pub(super) fn load(model: &str, options: &ModelOptions) -> Result<Arc<dyn Backend>, BackendError> {
    let found = Found::of(model, options)?;
    if let Some(name) = &found.ollama
        && options.ollama_unload
    {
        unload(name);
    }
    Ok(Arc::new(LlamaCppBackend::load(found.file, &found.options)?))
}

pub(super) fn describe(model: &str, options: &ModelOptions) -> Result<ModelInfo, BackendError> {
    let found = Found::of(model, options)?;
    LlamaCppBackend::describe(found.file, &found.options)
}

pub(super) fn try_file(file: &Path) -> Result<(), BackendError> {
    avp_backend_llamacpp::try_file(file)
}

/// What a reference stands for.
struct Found {
    file: PathBuf,
    /// Its name, where it is one of Ollama's.
    ollama: Option<ModelName>,
    options: LoadOptions,
}

impl Found {
    fn of(model: &str, options: &ModelOptions) -> Result<Self, BackendError> {
        let mut load = options.for_llamacpp()?;
        let Some(name) = ModelName::from_reference(model) else {
            refuse("a GGUF file", [(options.ollama_unload, "ollama_unload", None)])?;
            return Ok(Self { file: model.into(), ollama: None, options: load });
        };
        let invalid = |problem: String| BackendError::ModelFileInvalid { path: model.into(), problem };
        let name = name.map_err(|error| invalid(error.to_string()))?;
        load.model_id.get_or_insert_with(|| name.to_string());
        let found = Store::locate().and_then(|store| store.resolve(&name));
        let found = found.map_err(|error| invalid(error.to_string()))?;
        Ok(Self { file: found.gguf, ollama: Some(found.name), options: load })
    }
}

fn unload(name: &ModelName) {
    let unloaded = OllamaServer::from_env().and_then(|server| server.unload(name, UNLOAD));
    match unloaded {
        Ok(Unload::Unloaded) => tracing::debug!(model = %name, "Ollama has let go of its copy"),
        Ok(Unload::NotRunning) => {}
        Err(error) => tracing::warn!(model = %name, %error, "Ollama keeps its copy of the model"),
    }
}
