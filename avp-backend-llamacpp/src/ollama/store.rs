//! The folder in which Ollama keeps its models.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::OllamaError;
use super::model::OllamaModel;
use super::name::{DEFAULT_HOST, ModelName, V2_HOST};

/// Ollama's models folder: `manifests/HOST/NAMESPACE/NAME/TAG` (or `manifests-v2`) and `blobs/sha256-HEX`.
///
/// ```no_run
/// use avp_backend_llamacpp::ollama::{ModelName, Store};
///
/// let name: ModelName = "qwen2.5:0.5b".parse().unwrap();
/// let model = Store::locate()?.resolve(&name)?;
/// println!("{}", model.gguf.display());
/// # Ok::<(), avp_backend_llamacpp::ollama::OllamaError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// The models folder of this machine: `OLLAMA_MODELS`, else the user's (`~/.ollama/models`), else that of the service
    /// (`/usr/share/ollama/.ollama/models`).
    ///
    /// # Errors
    ///
    /// [`OllamaError::NoStore`] where none of them has models.
    pub fn locate() -> Result<Self, OllamaError> {
        Self::locate_in(env::var_os("OLLAMA_MODELS"), env::home_dir(), Path::new(SERVICE_HOME))
    }

    /// A models folder.
    ///
    /// # Errors
    ///
    /// [`OllamaError::NoStore`] where it has no manifests.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, OllamaError> {
        let root = root.into();
        match Self::has_manifests(&root) {
            true => Ok(Self { root }),
            false => Err(OllamaError::NoStore { looked: root.display().to_string() }),
        }
    }

    /// As [`Self::locate`], with what it takes from the environment given.
    fn locate_in(set: Option<OsString>, home: Option<PathBuf>, service: &Path) -> Result<Self, OllamaError> {
        if let Some(root) = set.filter(|root| !root.is_empty()) {
            return Self::open(root);
        }
        let homes = home.into_iter().chain([service.to_owned()]);
        let roots: Vec<PathBuf> = homes.map(|home| home.join(".ollama").join("models")).collect();
        let looked = || roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(" and ");
        let root = roots.iter().find(|root| Self::has_manifests(root));
        let root = root.ok_or_else(|| OllamaError::NoStore { looked: looked() })?;
        Ok(Self { root: root.clone() })
    }

    fn has_manifests(root: &Path) -> bool {
        [MANIFESTS_V2, MANIFESTS].iter().any(|folder| root.join(folder).is_dir())
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The model of a name.
    ///
    /// # Errors
    ///
    /// Models that are not there, with some that are; manifests and blobs that are broken; models with adapters or projectors.
    pub fn resolve(&self, name: &ModelName) -> Result<OllamaModel, OllamaError> {
        if let Some(manifest) = self.manifest(name)? {
            return OllamaModel::of(name.clone(), &manifest, &self.root);
        }
        // As Ollama does, names are compared without regard to case where none is the same.
        let names = self.list()?;
        let alike = names.iter().find(|there| there.same(name) && *there != name);
        if let Some(alike) = alike
            && let Some(manifest) = self.manifest(alike)?
        {
            return OllamaModel::of(alike.clone(), &manifest, &self.root);
        }
        let there = in_words(&names);
        Err(OllamaError::NotFound { name: name.to_string(), store: self.root.clone(), there })
    }

    /// Where the manifest of a name is, if it is there.
    fn manifest(&self, name: &ModelName) -> Result<Option<PathBuf>, OllamaError> {
        let places = match name.is_public() {
            true => [(MANIFESTS_V2, V2_HOST), (MANIFESTS, DEFAULT_HOST), (MANIFESTS, V2_HOST)].to_vec(),
            false => [(MANIFESTS_V2, name.host()), (MANIFESTS, name.host())].to_vec(),
        };
        for (folder, host) in places {
            let path =
                name.at(host).parts().iter().fold(self.root.join(folder), |path, part| path.join(part));
            match fs::symlink_metadata(&path) {
                Ok(_) => return Ok(Some(path)),
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(source) => return Err(OllamaError::Io { path, source }),
            }
        }
        Ok(None)
    }

    /// The models that are there, in order; of very many, some. Folders within that cannot be read are passed over.
    ///
    /// # Errors
    ///
    /// A folder of manifests that cannot be read.
    pub fn list(&self) -> Result<Vec<ModelName>, OllamaError> {
        let mut names = Vec::new();
        let mut budget = MOST_ENTRIES;
        for folder in [MANIFESTS_V2, MANIFESTS] {
            let root = self.root.join(folder);
            if root.is_dir() {
                walk(&root, &mut Vec::new(), &mut names, &mut budget)?;
            }
        }
        for name in &mut names {
            if name.is_public() {
                *name = name.at(DEFAULT_HOST);
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }
}

/// Collects the names at the fourth level below `folder`; `above` are the levels down to it, `budget` the entries still to be
/// looked at.
fn walk(
    folder: &Path,
    above: &mut Vec<String>,
    names: &mut Vec<ModelName>,
    budget: &mut usize,
) -> Result<(), OllamaError> {
    let io = |source| OllamaError::Io { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(io)? {
        let Some(left) = budget.checked_sub(1) else { break };
        *budget = left;
        let path = entry.map_err(io)?.path();
        let Some(part) = path.file_name().and_then(|part| part.to_str()) else { continue };
        above.push(part.to_owned());
        match above.as_slice() {
            [host, namespace, model, tag] => {
                names.extend(ModelName::from_parts([host, namespace, model, tag]))
            }
            // What cannot be read of it takes nothing from the rest.
            _ if path.is_dir() => drop(walk(&path, above, names, budget)),
            _ => {}
        }
        above.pop();
    }
    Ok(())
}

fn in_words(names: &[ModelName]) -> String {
    let shown: Vec<String> = names.iter().take(MOST_SHOWN).map(ModelName::to_string).collect();
    match names.len().saturating_sub(MOST_SHOWN) {
        _ if names.is_empty() => "there are none".to_owned(),
        0 => format!("there are: {}", shown.join(", ")),
        more => format!("there are: {} and {more} more", shown.join(", ")),
    }
}

const MANIFESTS: &str = "manifests";
/// Where Ollama keeps manifests since 2026; the files are links to blobs.
const MANIFESTS_V2: &str = "manifests-v2";
const SERVICE_HOME: &str = "/usr/share/ollama";
const MOST_SHOWN: usize = 10;
/// Most files and folders that are looked at to list models.
const MOST_ENTRIES: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_folder_comes_before_the_users_and_that_before_the_services() {
        let dir = tempfile::tempdir().unwrap();
        let models = |home: &str| dir.path().join(home).join(".ollama").join("models");
        let [home, service, set] = ["home", "service", "set"].map(|name| dir.path().join(name));
        let locate = |set: Option<&Path>| {
            Store::locate_in(set.map(OsString::from), Some(home.clone()), &service).map(|store| store.root)
        };
        let error = locate(None).unwrap_err().to_string();
        assert!(
            error.contains("home") && error.contains("service") && error.contains("OLLAMA_MODELS"),
            "{error}"
        );
        fs::create_dir_all(models("service").join("manifests")).unwrap();
        // A user who only has Ollama's keys has no models of their own.
        fs::create_dir_all(dir.path().join("home").join(".ollama")).unwrap();
        assert_eq!(locate(None).unwrap(), models("service"));
        fs::create_dir_all(models("home").join("manifests-v2")).unwrap();
        assert_eq!(locate(None).unwrap(), models("home"));
        assert_eq!(locate(Some(Path::new(""))).unwrap(), models("home"));
        let error = locate(Some(&set)).unwrap_err().to_string();
        assert!(error.contains("set") && !error.contains("home"), "{error}");
        fs::create_dir_all(set.join("manifests")).unwrap();
        assert_eq!(locate(Some(&set)).unwrap(), set);
    }
}
