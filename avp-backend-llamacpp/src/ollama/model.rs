//! A model as its manifest puts it together.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::error::OllamaError;
use super::files::read_text;
use super::manifest::{Layer, Manifest};
use super::name::ModelName;
use crate::shown::shown;

/// A model of an Ollama installation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct OllamaModel {
    /// Its name, as it stands in the store.
    pub name: ModelName,
    /// The GGUF file.
    pub gguf: PathBuf,
    /// The prompt template, in Go's template language. It is kept, not run: the GGUF file has one in Jinja.
    pub template: Option<String>,
    /// Options such as `temperature` and `stop`.
    pub params: Map<String, Json>,
    /// The system prompt.
    pub system: Option<String>,
    /// Licences.
    pub licenses: Vec<String>,
    /// What the GGUF file was created from, where the manifest says it: a name or a path, for information only.
    pub from: Option<String>,
}

impl OllamaModel {
    /// What the manifest at `manifest` says.
    pub(super) fn of(name: ModelName, manifest: &Path, root: &Path) -> Result<Self, OllamaError> {
        let content = Manifest::read(manifest, root)?;
        let unsupported = |what: String| OllamaError::Unsupported { name: name.to_string(), what };
        if !matches!(content.format.as_str(), "" | "gguf") {
            return Err(unsupported(format!("is in the format '{}'", shown(&content.format))));
        }
        let mut model = Self {
            name: name.clone(),
            gguf: PathBuf::new(),
            template: None,
            params: Map::new(),
            system: None,
            licenses: Vec::new(),
            from: None,
        };
        let mut weights = 0_usize;
        for layer in &content.layers {
            let text = || text(layer, manifest, root);
            match layer.media_type.strip_prefix(IMAGE).unwrap_or_default() {
                "model" => {
                    weights = weights.saturating_add(1);
                    model.gguf = layer.blob(manifest, root)?;
                    model.from.clone_from(&layer.from);
                }
                // `prompt` in manifests of 2023.
                "template" | "prompt" => model.template = Some(text()?),
                "system" => model.system = Some(text()?),
                "license" => model.licenses.push(text()?),
                "params" => model.params = params(layer, manifest, root)?,
                "adapter" => return Err(unsupported("has a LoRA adapter".to_owned())),
                "projector" => return Err(unsupported("has a projector for images".to_owned())),
                "tensor" => return Err(unsupported("has its weights as safetensors".to_owned())),
                // Example messages, configurations, and what later versions add.
                _ => {}
            }
        }
        match weights {
            1 => Ok(model),
            0 => Err(unsupported("has no weights on this machine (it may run in the cloud)".to_owned())),
            parts => Err(unsupported(format!("has its weights in {parts} parts"))),
        }
    }
}

fn text(layer: &Layer, manifest: &Path, root: &Path) -> Result<String, OllamaError> {
    let path = layer.blob(manifest, root)?;
    read_text(&path)
        .map_err(|fault| fault.of(&path, |problem| OllamaError::Blob { path: path.clone(), problem }))
}

fn params(layer: &Layer, manifest: &Path, root: &Path) -> Result<Map<String, Json>, OllamaError> {
    let problem = |e| OllamaError::Manifest {
        path: manifest.to_owned(),
        problem: format!("has parameters that are no JSON object: {e}"),
    };
    serde_json::from_str(&text(layer, manifest, root)?).map_err(problem)
}

const IMAGE: &str = "application/vnd.ollama.image.";
