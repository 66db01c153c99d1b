//! GGUF files, and those behind Ollama's names.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use avp::gguf::GgufFile;
use avp::ollama::Store;
use avp::{Engine, ModelOptions, describe_model};

use super::{Found, Shape, Sizes, entries, file_name};

/// The GGUF files in a folder.
pub(super) fn files_in(dir: &Path) -> Vec<Found> {
    let is_gguf = |path: &PathBuf| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    let files = entries(dir).into_iter().filter(|path| is_gguf(path) && path.is_file());
    files.map(|path| describe(file_name(&path), path)).collect()
}

/// What Ollama has here. Without Ollama that is nothing, and what is broken in its folder is told of the models that it is
/// part of.
pub(super) fn of_ollama() -> Vec<Found> {
    let Ok(store) = Store::locate() else { return Vec::new() };
    let names = store.list().unwrap_or_default();
    let found = names.into_iter().map(|name| {
        let reference = format!("ollama:{name}");
        match store.resolve(&name) {
            Ok(model) => describe(reference, model.gguf),
            Err(error) => Found {
                name: reference,
                path: store.root().to_owned(),
                bytes: 0,
                engine: Engine::LlamaCpp,
                shape: None,
                problem: Some(error.to_string()),
            },
        }
    });
    found.collect()
}

fn describe(name: String, path: PathBuf) -> Found {
    let bytes = fs::metadata(&path).map_or(0, |of| of.len());
    let (shape, fault) = match GgufFile::open(&path) {
        Ok(file) => (shape(&file), None),
        Err(error) => (None, Some(error.fault.to_string())),
    };
    let without = || "it needs a build with the feature `llamacpp`".to_owned();
    let problem = fault.or_else(|| match Engine::LlamaCpp.available() {
        true => refused(&path),
        false => Some(without()),
    });
    Found { name, path, bytes, engine: Engine::LlamaCpp, shape, problem }
}

/// Why llama.cpp is not given the file.
fn refused(path: &Path) -> Option<String> {
    let path = path.display().to_string();
    let error = describe_model(&path, &ModelOptions::default()).err()?.to_string();
    // The table and the record name the file beside it.
    Some(error.strip_prefix(&format!("{path}: ")).unwrap_or(&error).to_owned())
}

fn shape(file: &GgufFile) -> Option<Shape> {
    let family = file.find_str("general.architecture").ok().flatten()?.to_owned();
    let mut by_type = HashMap::new();
    for tensor in file.tensors() {
        *by_type.entry(tensor.ty.name()).or_insert(0) += tensor.len;
    }
    let weights =
        by_type.into_iter().max_by_key(|&(name, bytes)| (bytes, name)).map(|(name, _)| name.to_owned());
    let sizes = file.meta().ok().map(|meta| Sizes {
        layers: meta.kv_layers(),
        width: meta.embedding_length,
        kv_heads: meta.head_count_kv,
        head_dim: meta.head_dim,
    });
    Some(Shape { family, hash: None, weights, sizes })
}
