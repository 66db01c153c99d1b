//! Fingerprints kept on disk, so that a checkpoint is read once.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use super::{Fingerprint, FingerprintError};
use crate::json::{Integer, Json, Key};

/// A directory of fingerprints, one small JSON file for each checkpoint.
///
/// An entry counts while path, size and modification time of every file of the checkpoint are what they were. What
/// is wrong with the cache itself costs time, never the fingerprint: an entry that cannot be read is made again, one
/// that cannot be written is not kept.
#[derive(Clone, Debug)]
pub struct FingerprintCache {
    dir: PathBuf,
}

/// An entry is this long for some ten thousand files; a longer one is none of ours.
const MAX_ENTRY_BYTES: u64 = 4 << 20;

impl FingerprintCache {
    /// A cache in `dir`, which is made when there is something to keep.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// [`Fingerprint::of_safetensors`], read from the cache where nothing has changed.
    ///
    /// # Errors
    /// As [`Fingerprint::of_safetensors`].
    pub fn of_safetensors<P: AsRef<Path>>(&self, files: &[P]) -> Result<Fingerprint, FingerprintError> {
        self.of_safetensors_with(files, |_, _| ())
    }

    /// [`Fingerprint::of_safetensors_with`], read from the cache where nothing has changed; then `progress` is not
    /// called.
    ///
    /// # Errors
    /// As [`Fingerprint::of_safetensors`].
    pub fn of_safetensors_with<P: AsRef<Path>>(
        &self,
        files: &[P],
        progress: impl FnMut(u64, u64),
    ) -> Result<Fingerprint, FingerprintError> {
        let before = stamps(files)?;
        let entry = self.dir.join(entry_name(&before));
        let described = describe(&before);
        if let Some(found) = read_entry(&entry, &described) {
            return Ok(found);
        }
        let fingerprint = Fingerprint::of_safetensors_with(files, progress)?;
        for (old, new) in before.iter().zip(stamps(files)?) {
            if *old != new {
                return Err(FingerprintError::Changed { path: new.path });
            }
        }
        if before.iter().all(|stamp| stamp.modified_ns.is_some()) {
            // Best effort: a full disk must not keep a model from being used.
            let _ = self.write_entry(&entry, described, fingerprint);
        }
        Ok(fingerprint)
    }

    fn write_entry(&self, entry: &Path, files: Json, fingerprint: Fingerprint) -> std::io::Result<()> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.dir)?;
        let mut name = OsString::from(entry.file_name().unwrap_or_default());
        name.push(format!(".{}.{}.tmp", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let beside = self.dir.join(name);
        let text = Json::Object(vec![
            (Key::from("version"), Json::Int(Integer::from(1))),
            (Key::from("files"), files),
            (Key::from("weights"), Json::String(fingerprint.to_string())),
        ])
        .to_text();
        let write = || {
            let mut file = fs::File::create_new(&beside)?;
            file.write_all(text.as_bytes())?;
            drop(file);
            fs::rename(&beside, entry)
        };
        write().inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })
    }
}

/// What tells whether a file is still the one that was hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    size: u64,
    /// `None` where the file system does not say; such checkpoints are not cached.
    modified_ns: Option<u128>,
}

/// The stamps of all files, in order of their canonical paths.
fn stamps<P: AsRef<Path>>(files: &[P]) -> Result<Vec<Stamp>, FingerprintError> {
    let stamp = |path: &P| {
        let path = path.as_ref();
        let io = |source| FingerprintError::Io { path: path.to_path_buf(), source };
        let canonical = fs::canonicalize(path).map_err(io)?;
        let metadata = fs::metadata(&canonical).map_err(io)?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Stamp { path: canonical, size: metadata.len(), modified_ns: modified.map(|time| time.as_nanos()) })
    };
    let mut stamps = files.iter().map(stamp).collect::<Result<Vec<_>, _>>()?;
    stamps.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(stamps)
}

/// The entry's name hangs on the paths alone, so that a changed checkpoint replaces its old entry.
fn entry_name(stamps: &[Stamp]) -> String {
    let mut hasher = blake3::Hasher::new();
    for stamp in stamps {
        hasher.update(stamp.path.as_os_str().as_encoded_bytes());
        hasher.update(b"\0");
    }
    format!("weights-{}.json", hasher.finalize().to_hex())
}

fn describe(stamps: &[Stamp]) -> Json {
    let text = |text: String| Json::String(text);
    let entry = |stamp: &Stamp| {
        Json::Object(vec![
            (Key::from("path"), text(stamp.path.to_string_lossy().into_owned())),
            (Key::from("size"), Json::Int(Integer::from(stamp.size))),
            // As text: nanoseconds do not fit the numbers of most JSON readers.
            (Key::from("modified_ns"), stamp.modified_ns.map_or(Json::Null, |ns| text(ns.to_string()))),
        ])
    };
    Json::Array(stamps.iter().map(entry).collect())
}

/// The fingerprint of an entry that is sound and speaks of these very files.
fn read_entry(entry: &Path, files: &Json) -> Option<Fingerprint> {
    if fs::metadata(entry).ok()?.len() > MAX_ENTRY_BYTES {
        return None;
    }
    let json = Json::parse(&fs::read(entry).ok()?).ok()?;
    if json.get("version") != Some(&Json::Int(Integer::from(1))) || json.get("files") != Some(files) {
        return None;
    }
    match json.get("weights") {
        Some(Json::String(text)) => text.parse().ok(),
        _ => None,
    }
}
