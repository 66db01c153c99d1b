//! `avp models`.

mod folders;
mod gguf;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use avp::Engine;
use serde_json::{Value, json};

use super::model::demo_folder;
use crate::args::ModelsArgs;
use crate::output;

/// A model that is here.
struct Found {
    /// What `--model` takes, but for folders that are given by `--dir`.
    name: String,
    path: PathBuf,
    /// Bytes of its weights.
    bytes: u64,
    engine: Engine,
    /// What it says it is, as far as it does.
    shape: Option<Shape>,
    /// Why this build cannot run it.
    problem: Option<String>,
}

/// What a config.json or a GGUF's metadata say.
struct Shape {
    family: String,
    /// Of Hugging Face folders only.
    hash: Option<String>,
    /// Type of most of its weights, of GGUF files only.
    weights: Option<String>,
    /// What only models of known kinds have.
    sizes: Option<Sizes>,
}

struct Sizes {
    layers: u32,
    width: u32,
    kv_heads: u32,
    head_dim: u32,
}

pub(crate) fn run(args: ModelsArgs, json: bool) -> Result<()> {
    if let Some(dir) = &args.dir {
        fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    }
    let mut found: Vec<Found> = Vec::new();
    for folder in [args.dir, demo_folder()].into_iter().flatten() {
        found.extend(folders::models_in(&folder));
        found.extend([folder.join("gguf"), folder].iter().flat_map(|folder| gguf::files_in(folder)));
    }
    found.extend(folders::of_hub());
    found.extend(gguf::of_ollama());
    found.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    found.dedup_by(|a, b| a.name == b.name && a.path.canonicalize().ok() == b.path.canonicalize().ok());
    if json {
        return Ok(output::object(&json!({ "models": found.iter().map(record).collect::<Vec<_>>() }))?);
    }
    if found.is_empty() {
        return Ok(output::line("no models here; give --dir DIR, or load one by its hub id")?);
    }
    for model in &found {
        let (name, what) = (output::printable(&model.name), output::short_line(&in_words(model)));
        output::line(&format!("{name:<32} {:>11}  {what}", output::bytes(model.bytes)))?;
    }
    Ok(())
}

fn in_words(model: &Found) -> String {
    let shape = model.shape.as_ref().map(|shape| {
        let sizes = shape.sizes.as_ref();
        let sizes = sizes.map(|of| format!("{} layers, width {}", of.layers, of.width));
        [Some(shape.family.clone()), sizes, shape.weights.clone()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
    });
    let problem = model.problem.as_ref().map(|problem| format!("not usable: {problem}"));
    [shape, problem].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn record(model: &Found) -> Value {
    let mut record = json!({
        "name": model.name,
        "path": model.path.display().to_string(),
        "bytes": model.bytes,
        "engine": model.engine.as_str(),
        "usable": model.problem.is_none(),
    });
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            record[key] = value;
        }
    };
    if let Some(shape) = &model.shape {
        put("model_family", Some(shape.family.clone().into()));
        put("model_hash", shape.hash.clone().map(Into::into));
        put("weights_type", shape.weights.clone().map(Into::into));
        let sizes = shape.sizes.as_ref();
        put("hidden_dim", sizes.map(|sizes| sizes.width.into()));
        put("num_layers", sizes.map(|sizes| sizes.layers.into()));
        put("num_kv_heads", sizes.map(|sizes| sizes.kv_heads.into()));
        put("head_dim", sizes.map(|sizes| sizes.head_dim.into()));
    }
    put("error", model.problem.clone().map(Into::into));
    record
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
