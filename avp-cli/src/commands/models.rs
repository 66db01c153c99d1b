//! `avp models`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use avp::ModelIdentity;
use serde_json::{Value, json};

use super::model::demo_folder;
use crate::args::ModelsArgs;
use crate::output;

/// A model folder, as its config.json tells it.
struct Found {
    name: String,
    path: PathBuf,
    bytes: u64,
    identity: Result<ModelIdentity>,
}

pub(crate) fn run(args: ModelsArgs, json: bool) -> Result<()> {
    let mut found: Vec<Found> = Vec::new();
    if let Some(dir) = &args.dir {
        fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    }
    for folder in [args.dir, demo_folder()].into_iter().flatten() {
        found.extend(folders_in(&folder).into_iter().map(|path| describe(file_name(&path), path)));
    }
    found.extend(hub_cache().iter().flat_map(|cache| hub_models(cache)));
    found.sort_by(|a, b| (&a.name, &a.path).cmp(&(&b.name, &b.path)));
    found.dedup_by(|a, b| a.path.canonicalize().ok() == b.path.canonicalize().ok());
    if json {
        return Ok(output::object(&json!({ "models": found.iter().map(record).collect::<Vec<_>>() }))?);
    }
    if found.is_empty() {
        return Ok(output::line("no models here; give --dir DIR, or load one by its hub id")?);
    }
    for model in &found {
        let what = match &model.identity {
            Ok(id) => format!("{}, {} layers, width {}", id.model_family, id.num_layers, id.hidden_dim),
            Err(error) => format!("not usable: {error}"),
        };
        let (name, what) = (output::printable(&model.name), output::printable(&what));
        output::line(&format!("{name:<32} {:>11}  {what}", output::bytes(model.bytes)))?;
    }
    Ok(())
}

fn record(model: &Found) -> Value {
    let mut record = json!({
        "name": model.name,
        "path": model.path.display().to_string(),
        "bytes": model.bytes,
    });
    match &model.identity {
        Ok(id) => {
            record["model_family"] = id.model_family.clone().into();
            record["model_hash"] = id.model_hash.clone().into();
            record["hidden_dim"] = id.hidden_dim.into();
            record["num_layers"] = id.num_layers.into();
            record["num_kv_heads"] = id.num_kv_heads.into();
            record["head_dim"] = id.head_dim.into();
        }
        Err(error) => record["error"] = error.to_string().into(),
    }
    record
}

fn describe(name: String, path: PathBuf) -> Found {
    let identity = fs::read(path.join("config.json"))
        .map_err(anyhow::Error::from)
        .and_then(|bytes| Ok(ModelIdentity::from_config_json(&bytes)?));
    let weights = entries(&path).into_iter().filter(|f| f.extension().is_some_and(|e| e == "safetensors"));
    let bytes = weights.filter_map(|f| fs::metadata(f).ok()).map(|m| m.len()).sum();
    Found { name, path, bytes, identity }
}

/// Folders in `dir` that hold a config.json.
fn folders_in(dir: &Path) -> Vec<PathBuf> {
    entries(dir).into_iter().filter(|path| path.join("config.json").is_file()).collect()
}

/// The hub's cache: HF_HUB_CACHE, HF_HOME/hub, or ~/.cache/huggingface/hub.
fn hub_cache() -> Option<PathBuf> {
    let own = env::var_os("HF_HUB_CACHE").map(PathBuf::from);
    let hf_home = || env::var_os("HF_HOME").map(|dir| PathBuf::from(dir).join("hub"));
    let home = || env::var_os("HOME").map(|dir| PathBuf::from(dir).join(".cache/huggingface/hub"));
    own.or_else(hf_home).or_else(home)
}

/// `models--ORG--NAME/snapshots/COMMIT` under a hub cache.
fn hub_models(cache: &Path) -> Vec<Found> {
    let repositories = entries(cache).into_iter().filter_map(|path| {
        let id = file_name(&path).strip_prefix("models--")?.replacen("--", "/", 1);
        Some((id, folders_in(&path.join("snapshots")).pop()?))
    });
    repositories.map(|(id, path)| describe(id, path)).collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
