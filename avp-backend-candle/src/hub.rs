//! Models of the Hugging Face hub, fetched into its cache.

use std::path::{Path, PathBuf};

use avp_backend::BackendError;
use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use crate::options::{LoadOptions, LoadProgress, ProgressFn};
use crate::weights::{INDEX, SINGLE, indexed_names};

const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"];
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// `model` as a hub id, `name` or `owner/name`, if it can be one.
pub(crate) fn model_id(model: &Path) -> Option<&str> {
    let id = model.to_str()?;
    let is_name = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && !part.starts_with(['.', '-'])
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let mut parts = id.split('/');
    let valid =
        parts.next().is_some_and(is_name) && parts.next().is_none_or(is_name) && parts.next().is_none();
    (valid && !model.is_file()).then_some(id)
}

/// Downloads what is not yet cached of model `id` and returns its folder. Without a connection, what is cached.
pub(crate) fn fetch(id: &str, options: &LoadOptions) -> Result<PathBuf, BackendError> {
    let hub = Hub::new(id, options)?;
    let names: Vec<String> = match hub.repo.info() {
        Ok(info) => info.siblings.into_iter().map(|s| s.rfilename).collect(),
        Err(error) => return hub.cached(&error),
    };
    let has = |name: &str| names.iter().any(|n| n == name);
    let mut files: Vec<String> = OPTIONAL.iter().filter(|n| has(n)).map(|n| (*n).to_owned()).collect();
    if has(INDEX) {
        files.extend(indexed_names(&hub.get(INDEX)?)?);
    } else if has(SINGLE) {
        files.push(SINGLE.to_owned());
    } else {
        let problem = format!("it has no {SINGLE}; only safetensors checkpoints can be loaded");
        return Err(hub.error(problem));
    }
    let mut folder = None;
    for name in REQUIRED.into_iter().chain(files.iter().map(String::as_str)) {
        if !has(name) {
            return Err(hub.error(format!("it has no {name}, without which it cannot be loaded")));
        }
        let path = hub.get(name)?;
        let parent = path.parent().map(Path::to_path_buf);
        if folder.get_or_insert_with(|| parent.clone()) != &parent {
            return Err(hub.error("it was changed while it was being downloaded; try again"));
        }
    }
    folder.flatten().ok_or_else(|| hub.error("nothing was downloaded"))
}

struct Hub<'a> {
    id: &'a str,
    endpoint: String,
    repo: ApiRepo,
    cache: Cache,
    progress: Option<ProgressFn>,
}

impl<'a> Hub<'a> {
    fn new(id: &'a str, options: &LoadOptions) -> Result<Self, BackendError> {
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|e| !e.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        let cache = match &options.cache_dir {
            Some(dir) => Cache::new(dir.clone()),
            None => Cache::from_env(),
        };
        let builder = ApiBuilder::from_cache(cache.clone()).with_progress(false).with_retries(2);
        let api = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned()).build();
        let repo = api
            .map_err(|e| download_error(id, &endpoint, one_line(&e)))?
            .repo(Repo::new(id.to_owned(), RepoType::Model));
        Ok(Self { id, endpoint, repo, cache, progress: options.progress.clone() })
    }

    fn get(&self, name: &str) -> Result<PathBuf, BackendError> {
        if let Some(path) = self.cache.model(self.id.to_owned()).get(name) {
            return Ok(path);
        }
        let progress = Download { what: name.to_owned(), done: 0, total: 0, tell: self.progress.clone() };
        self.repo
            .download_with_progress(name, progress)
            .map_err(|e| self.error(format!("downloading {name} failed: {}", one_line(&e))))
    }

    /// The cached folder, if there is one, in place of an answer of the hub.
    fn cached(&self, error: &ApiError) -> Result<PathBuf, BackendError> {
        let config = self.cache.model(self.id.to_owned()).get("config.json");
        let folder = config.as_deref().and_then(Path::parent).map(Path::to_path_buf);
        folder.ok_or_else(|| self.error(one_line(error)))
    }

    fn error(&self, problem: impl Into<String>) -> BackendError {
        download_error(self.id, &self.endpoint, problem.into())
    }
}

fn download_error(id: &str, endpoint: &str, problem: String) -> BackendError {
    BackendError::Download { model: id.to_owned(), endpoint: endpoint.to_owned(), problem }
}

fn one_line(error: &ApiError) -> String {
    error.to_string().lines().next().unwrap_or("no answer").to_owned()
}

/// Passes progress of one download on.
struct Download {
    what: String,
    done: u64,
    total: u64,
    tell: Option<ProgressFn>,
}

impl Download {
    fn tell(&self) {
        if let Some(tell) = &self.tell {
            tell(&LoadProgress { what: self.what.clone().into(), done: self.done, total: self.total });
        }
    }
}

impl Progress for Download {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.done, self.total) = (0, size as u64);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.done = self.done.saturating_add(size as u64);
        self.tell();
    }

    fn finish(&mut self) {
        self.done = self.total;
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_one_or_two_parts_are_hub_ids() {
        for id in ["gpt2", "Qwen/Qwen2.5-0.5B", "a/b_c"] {
            assert_eq!(model_id(Path::new(id)), Some(id));
        }
        for path in ["", "/models/x", "./x", "../x", "a/b/c", "a/", "a//b", "~/x", "a b", "a/b?c"] {
            assert_eq!(model_id(Path::new(path)), None, "{path}");
        }
    }
}
