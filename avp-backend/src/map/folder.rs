//! Maps in a folder, a file for each two models.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::index::Index;
use super::tensors::MOST_FILE;
use super::{MapEnd, MapError, MapFault, ModelKey, ProjectionMap};

/// How the files are called after their name.
const EXTENSION: &str = "avp-map";

impl ProjectionMap {
    /// The name of this map in a [`MapFolder`]: of each model 16 digits of a hash over its full hash and fingerprint, so that no
    /// text of a model or a peer becomes a path.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}_{}", digits(&self.source), digits(&self.target))
    }

    /// Reads a map from a file.
    ///
    /// # Errors
    /// [`MapError::File`] with what is wrong with it, [`MapError::Io`] if it cannot be read.
    pub fn read(path: &Path) -> Result<Self, MapError> {
        // Opening a pipe waits for somebody to write into it.
        let found = fs::metadata(path).map_err(MapError::io(path))?;
        if !found.is_file() {
            let no_file = io::Error::new(io::ErrorKind::InvalidInput, "it is no file; give a map's file");
            return Err(MapError::io(path)(no_file));
        }
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(MapError::io(path))?;
        file.take(MOST_FILE + 1).read_to_end(&mut bytes).map_err(MapError::io(path))?;
        Self::decode(&bytes).map_err(MapError::file(path))
    }
}

fn digits(end: &MapEnd) -> String {
    let key = ModelKey::from(end);
    let mut hasher = blake3::Hasher::new();
    for text in [key.model_hash, key.weights] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finalize().to_hex().chars().take(16).collect()
}

/// A map's file, and what is in it or why that is no map.
pub type ListedMap = (PathBuf, Result<ProjectionMap, MapError>);

/// A folder of map files. It need not exist until the first map is saved.
///
/// It answers rule 4 of the negotiation ([`MapLookup`](avp_handshake::MapLookup)): a look-up lists the folder and reads those
/// files that are new or have changed since the one before.
#[derive(Debug)]
pub struct MapFolder {
    dir: PathBuf,
    pub(super) index: Index,
}

impl MapFolder {
    /// The maps in `dir`. Nothing is read yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), index: Index::default() }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a map, whole or not at all: beside its place first, then renamed. Makes the folder where it is missing.
    ///
    /// # Errors
    /// [`MapError::Exists`] if there is one of these two models; [`MapError::Map`] if it would not be read again.
    pub fn save(&self, map: &ProjectionMap) -> Result<PathBuf, MapError> {
        self.write(map, |file, path| {
            file.persist_noclobber(path).map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => MapError::Exists(path.to_owned()),
                _ => MapError::io(path)(error.error),
            })
        })
    }

    /// As [`save`](Self::save), in place of the one that may be there.
    ///
    /// # Errors
    /// As `save`, without [`MapError::Exists`].
    pub fn replace(&self, map: &ProjectionMap) -> Result<PathBuf, MapError> {
        self.write(map, |file, path| file.persist(path).map_err(|error| MapError::io(path)(error.error)))
    }

    fn write(
        &self,
        map: &ProjectionMap,
        persist: impl FnOnce(NamedTempFile, &Path) -> Result<File, MapError>,
    ) -> Result<PathBuf, MapError> {
        map.judge()?;
        let bytes = map.encode();
        let len = bytes.len() as u64;
        if len > MOST_FILE {
            return Err(MapFault::TooLarge { what: "a file", len, most: MOST_FILE }.into());
        }
        self.is_folder()?;
        fs::create_dir_all(&self.dir).map_err(MapError::io(&self.dir))?;
        let path = self.file(&map.id());
        let mut beside = NamedTempFile::new_in(&self.dir).map_err(MapError::io(&self.dir))?;
        beside.write_all(&bytes).map_err(MapError::io(&path))?;
        beside.as_file().sync_all().map_err(MapError::io(&path))?;
        persist(beside, &path)?;
        // The name outlives a crash too, where folders can be synced.
        let _ = File::open(&self.dir).and_then(|dir| dir.sync_all());
        Ok(path)
    }

    /// All map files with what they hold, by name. A broken one is told as broken.
    ///
    /// # Errors
    /// As [`files`](Self::files).
    pub fn list(&self) -> Result<Vec<ListedMap>, MapError> {
        let paths = self.files()?.into_iter();
        Ok(paths.map(|path| (path.clone(), ProjectionMap::read(&path))).collect())
    }

    /// Where the map of this name is: its id, or its file's name.
    ///
    /// # Errors
    /// [`MapError::Id`] for what could be a path, [`MapError::NotFound`] if there is none.
    pub fn path(&self, id: &str) -> Result<PathBuf, MapError> {
        let name = id.strip_suffix(".avp-map").unwrap_or(id);
        let is_plain = |c: char| !c.is_control() && !matches!(c, '/' | '\\' | ':');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
            return Err(MapError::Id(id.to_owned()));
        }
        let path = self.file(name);
        match path.is_file() {
            true => Ok(path),
            false => Err(MapError::NotFound { id: name.to_owned(), folder: self.dir.clone() }),
        }
    }

    /// The map of this name.
    ///
    /// # Errors
    /// As [`path`](Self::path) and [`ProjectionMap::read`].
    pub fn load(&self, id: &str) -> Result<ProjectionMap, MapError> {
        ProjectionMap::read(&self.path(id)?)
    }

    /// Removes the map of this name, broken or not, and says where it was.
    ///
    /// # Errors
    /// As [`path`](Self::path), and [`MapError::Io`].
    pub fn remove(&self, id: &str) -> Result<PathBuf, MapError> {
        let path = self.path(id)?;
        fs::remove_file(&path).map_err(MapError::io(&path))?;
        Ok(path)
    }

    /// The map between two models, by what the files say and not by their names: hashes and fingerprints are compared in full,
    /// where both sides know them. Of several the one whose checkpoints are known to be these.
    #[must_use]
    pub fn find<'a>(
        &self,
        source: impl Into<ModelKey<'a>>,
        target: impl Into<ModelKey<'a>>,
    ) -> Option<ProjectionMap> {
        let (source, target) = (source.into(), target.into());
        let is_for =
            |map: &ProjectionMap| source.is(&(&map.source).into()) && target.is(&(&map.target).into());
        let paths = self.candidates(source, target).into_iter();
        // A file may have changed since it was listed.
        paths.filter_map(|path| ProjectionMap::read(&path).ok()).find(is_for)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.{EXTENSION}"))
    }

    fn is_folder(&self) -> Result<(), MapError> {
        match self.dir.metadata() {
            Ok(found) if !found.is_dir() => {
                let error =
                    io::Error::new(io::ErrorKind::NotADirectory, "it is no folder; name one for maps");
                Err(MapError::io(&self.dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// The map files, by name, whatever is in them.
    ///
    /// # Errors
    /// [`MapError::Io`] if the folder cannot be read; one that is not there holds nothing.
    pub fn files(&self) -> Result<Vec<PathBuf>, MapError> {
        self.is_folder()?;
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(MapError::io(&self.dir))?,
        };
        let is_map = |path: &PathBuf| path.extension().is_some_and(|e| e == EXTENSION) && path.is_file();
        let mut paths: Vec<PathBuf> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_map).collect();
        paths.sort();
        Ok(paths)
    }
}
