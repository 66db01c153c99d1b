//! The demo models as GGUF files, changed ones, and a folder of Ollama's that has them.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::models;

/// A demo model's GGUF file: `avp-demo-qwen2-s-f16`.
pub(crate) fn gguf(name: &str) -> PathBuf {
    models().join("gguf").join(format!("{name}.gguf"))
}

/// A copy of a demo model's file with every `from` as `to`, which is as long, in what stands before the weights.
pub(crate) fn changed(name: &str, folder: &Path, from: &[u8], to: &[u8]) -> PathBuf {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(gguf(name)).unwrap();
    let head = avp::gguf::GgufFile::open(gguf(name)).unwrap().tensors()[0].offset as usize;
    let mut count = 0;
    for at in 0..head - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
            count += 1;
        }
    }
    assert!(count > 0);
    let path = folder.join("changed.gguf");
    fs::write(&path, bytes).unwrap();
    path
}

/// A models folder as Ollama writes it.
pub(crate) struct Ollama {
    folder: TempDir,
    blobs: u64,
}

impl Ollama {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("manifests")).unwrap();
        fs::create_dir(folder.path().join("blobs")).unwrap();
        Self { folder, blobs: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Adds a file as `NAME:TAG`.
    pub(crate) fn add(&mut self, name: &str, tag: &str, file: &Path) {
        self.blobs += 1;
        let hex = format!("{:064x}", self.blobs);
        let size = fs::copy(file, self.path().join("blobs").join(format!("sha256-{hex}"))).unwrap();
        let layer = json!({
            "mediaType": "application/vnd.ollama.image.model",
            "digest": format!("sha256:{hex}"),
            "size": size,
        });
        self.manifest(name, tag, &json!({ "schemaVersion": 2, "layers": [layer] }).to_string());
    }

    pub(crate) fn manifest(&self, name: &str, tag: &str, text: &str) {
        let folder = self.path().join("manifests/registry.ollama.ai/library").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(tag), text).unwrap();
    }
}
