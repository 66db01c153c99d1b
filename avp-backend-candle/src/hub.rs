//! Models of the Hugging Face hub.

use std::path::Path;

use avp_backend::BackendError;

use crate::{CandleBackend, LoadOptions};

pub(crate) fn load(model: &Path, _options: &LoadOptions) -> Result<CandleBackend, BackendError> {
    Err(BackendError::ModelFileMissing { path: model.to_path_buf(), what: "config.json".into() })
}
