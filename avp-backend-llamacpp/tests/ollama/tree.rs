//! A models folder as Ollama writes it.

use std::fs;
use std::path::{Path, PathBuf};

use avp_backend_llamacpp::ollama::{OllamaError, OllamaModel, Store};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

pub(crate) struct Tree {
    dir: TempDir,
    blobs: u64,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("manifests")).unwrap();
        fs::create_dir_all(dir.path().join("blobs")).unwrap();
        Self { dir, blobs: 0 }
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a blob, and gives the layer that names it.
    pub(crate) fn layer(&mut self, kind: &str, content: &[u8]) -> Json {
        self.blobs += 1;
        let hex = format!("{:064x}", self.blobs);
        fs::write(self.root().join("blobs").join(format!("sha256-{hex}")), content).unwrap();
        json!({
            "mediaType": format!("application/vnd.ollama.image.{kind}"),
            "digest": format!("sha256:{hex}"),
            "size": content.len(),
        })
    }

    /// Writes a manifest of layers at `manifests/PATH`.
    pub(crate) fn manifest(&self, path: &str, layers: &[&Json]) -> PathBuf {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": "sha256:0", "size": 1},
            "layers": layers,
        });
        self.raw(&format!("manifests/{path}"), &manifest.to_string())
    }

    pub(crate) fn raw(&self, path: &str, text: &str) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn resolve(&self, name: &str) -> Result<OllamaModel, OllamaError> {
        Store::open(self.root()).unwrap().resolve(&name.parse().unwrap())
    }

    /// The error of a name, which is one line.
    pub(crate) fn refused(&self, name: &str) -> String {
        let text = self.resolve(name).unwrap_err().to_string();
        assert!(text.chars().all(|c| !c.is_control()) && text.len() < 1200, "{text}");
        text
    }
}
