//! Manifests: which blobs a model is made of.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::OllamaError;
use super::files::read_text;
use crate::shown::shown;

/// What a model is made of, or, where it is a list, which manifests there are for which engine.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    #[serde(default)]
    pub(super) layers: Vec<Layer>,
    /// Engine that it is for, where it is said: `ollama`, `llamacpp`, `mlx`.
    #[serde(default)]
    runner: String,
    #[serde(default)]
    pub(super) format: String,
    /// The blob that it is in, where it is but named.
    #[serde(default)]
    digest: String,
    #[serde(default)]
    manifests: Vec<Manifest>,
}

/// A blob and what it is for.
#[derive(Debug, Deserialize)]
pub(super) struct Layer {
    #[serde(default, rename = "mediaType")]
    pub(super) media_type: String,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    size: Option<u64>,
    /// What the layer was created from; for information only, and never followed.
    #[serde(default)]
    pub(super) from: Option<String>,
}

impl Manifest {
    /// Reads a manifest; of a list, the one for GGUF engines.
    pub(super) fn read(path: &Path, root: &Path) -> Result<Self, OllamaError> {
        let manifest = Self::parse(path)?;
        if !manifest.is_list() {
            return Ok(manifest);
        }
        let problem = |problem: String| OllamaError::Manifest { path: path.to_owned(), problem };
        let mut children = manifest.manifests;
        let for_runner =
            |runner: &&str| children.iter().position(|child| child.runner.eq_ignore_ascii_case(runner));
        let Some(chosen) = ["ollama", "llamacpp", ""].iter().find_map(for_runner) else {
            let runners: Vec<String> = children.iter().take(5).map(|child| shown(&child.runner)).collect();
            let only = format!("lists nothing for ollama or llamacpp, only for: {}", runners.join(", "));
            return Err(problem(only));
        };
        let mut chosen = children.swap_remove(chosen);
        if chosen.layers.is_empty() && !chosen.digest.is_empty() {
            let layer = Layer { media_type: String::new(), digest: chosen.digest, size: None, from: None };
            chosen = Self::parse(&layer.blob(path, root)?)?;
        }
        if chosen.is_list() { Err(problem("lists another list".to_owned())) } else { Ok(chosen) }
    }

    fn is_list(&self) -> bool {
        self.media_type == MANIFEST_LIST || !self.manifests.is_empty()
    }

    fn parse(path: &Path) -> Result<Self, OllamaError> {
        let problem = |problem: String| OllamaError::Manifest { path: path.to_owned(), problem };
        let text = read_text(path).map_err(|fault| fault.of(path, problem))?;
        serde_json::from_str(&text).map_err(|e| problem(format!("is not a manifest: {e}")))
    }
}

impl Layer {
    /// Where its blob lies, which is there and has the size that the manifest, at `manifest`, says.
    pub(super) fn blob(&self, manifest: &Path, root: &Path) -> Result<PathBuf, OllamaError> {
        let digits = self.digest.strip_prefix("sha256:").or_else(|| self.digest.strip_prefix("sha256-"));
        let is_hex = |digits: &&str| digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let Some(digits) = digits.filter(is_hex) else {
            let problem =
                format!("has the digest '{}', which is no sha256: and 64 hex digits", shown(&self.digest));
            return Err(OllamaError::Manifest { path: manifest.to_owned(), problem });
        };
        let path = root.join("blobs").join(format!("sha256-{}", digits.to_ascii_lowercase()));
        let blob = |problem: String| OllamaError::Blob { path: path.clone(), problem };
        let metadata = match fs::metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(blob("is not there".to_owned()));
            }
            other => other.map_err(|source| OllamaError::Io { path: path.clone(), source })?,
        };
        if !metadata.is_file() {
            return Err(blob("is not a regular file".to_owned()));
        }
        match self.size {
            Some(size) if size != metadata.len() => {
                Err(blob(format!("has {} bytes, and the manifest says {size}", metadata.len())))
            }
            _ => Ok(path),
        }
    }
}

const MANIFEST_LIST: &str = "application/vnd.ollama.manifest.list.v2+json";
