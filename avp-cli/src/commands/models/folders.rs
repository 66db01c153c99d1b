//! Hugging Face model folders, and those in the hub's cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use avp::{Engine, ModelIdentity};

use super::{Found, Shape, Sizes, entries, file_name};

/// Folders in `dir` that hold a config.json.
pub(super) fn models_in(dir: &Path) -> Vec<Found> {
    folders_in(dir).into_iter().map(|path| describe(file_name(&path), path)).collect()
}

/// `models--ORG--NAME/snapshots/COMMIT` under the hub's cache.
pub(super) fn of_hub() -> Vec<Found> {
    let Some(cache) = hub_cache() else { return Vec::new() };
    let repositories = entries(&cache).into_iter().filter_map(|path| {
        let id = file_name(&path).strip_prefix("models--")?.replacen("--", "/", 1);
        Some((id, folders_in(&path.join("snapshots")).pop()?))
    });
    repositories.map(|(id, path)| describe(id, path)).collect()
}

fn folders_in(dir: &Path) -> Vec<PathBuf> {
    entries(dir).into_iter().filter(|path| path.join("config.json").is_file()).collect()
}

fn describe(name: String, path: PathBuf) -> Found {
    let identity = fs::read(path.join("config.json"))
        .map_err(anyhow::Error::from)
        .and_then(|bytes| Ok(ModelIdentity::from_config_json(&bytes)?));
    let weights = entries(&path).into_iter().filter(|f| f.extension().is_some_and(|e| e == "safetensors"));
    let bytes = weights.filter_map(|f| fs::metadata(f).ok()).map(|m| m.len()).sum();
    let problem = identity.as_ref().err().map(ToString::to_string);
    let shape = identity.ok().map(|id| Shape {
        family: id.model_family,
        hash: Some(id.model_hash),
        weights: None,
        sizes: Some(Sizes {
            layers: id.num_layers,
            width: id.hidden_dim,
            kv_heads: id.num_kv_heads,
            head_dim: id.head_dim,
        }),
    });
    Found { name, path, bytes, engine: Engine::Candle, shape, problem }
}

/// The hub's cache: HF_HUB_CACHE, HF_HOME/hub, or ~/.cache/huggingface/hub.
fn hub_cache() -> Option<PathBuf> {
    let own = env::var_os("HF_HUB_CACHE").map(PathBuf::from);
    let hf_home = || env::var_os("HF_HOME").map(|dir| PathBuf::from(dir).join("hub"));
    let home = || env::var_os("HOME").map(|dir| PathBuf::from(dir).join(".cache/huggingface/hub"));
    own.or_else(hf_home).or_else(home)
}
