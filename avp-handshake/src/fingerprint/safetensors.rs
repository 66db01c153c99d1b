//! Hashing a checkpoint in safetensors files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::Fingerprint;
use super::header::{self, HeaderError, Tensor};

/// Domain of the hash: what is hashed and how, so that it can be replaced.
const DOMAIN: &[u8] = b"avp.weights.v1\0";
/// Bytes read at once; memory used does not depend on the size of a tensor.
const CHUNK: u64 = 8 << 20;
/// Below this, one thread hashes faster than several.
const PARALLEL: usize = 256 << 10;

/// Why a checkpoint has no fingerprint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FingerprintError {
    /// No file was named.
    #[error("no safetensors files were given")]
    NoFiles,
    /// A file could not be read.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file's header is not what it should be.
    #[error("{path} is not a sound safetensors file: {source}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: HeaderError,
    },
    /// Two files hold a tensor of the same name.
    #[error("tensor {tensor:?} is in {first} and in {second}", first = first.display(), second = second.display())]
    DuplicateTensor {
        /// Name of the tensor.
        tensor: String,
        /// The file that has it.
        first: PathBuf,
        /// The other file that has it.
        second: PathBuf,
    },
    /// A file was written to while it was read.
    #[error("{path} changed while it was read; try again when it is written", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl Fingerprint {
    /// The fingerprint of the checkpoint that lies in `files`, in any order; reads them once, in bounded chunks.
    ///
    /// BLAKE3 over `avp.weights.v1\0` and, for each tensor in ascending byte order of names: length of the name u32,
    /// the name, length of the dtype u32, the dtype as in the header, rank u32, each dimension u64, length u64, the
    /// bytes. Numbers are little-endian.
    ///
    /// # Errors
    /// [`FingerprintError`], naming the file.
    pub fn of_safetensors<P: AsRef<Path>>(files: &[P]) -> Result<Self, FingerprintError> {
        Self::of_safetensors_with(files, |_, _| ())
    }

    /// As [`Fingerprint::of_safetensors`], telling `progress` after each chunk the bytes hashed and those in all.
    ///
    /// # Errors
    /// As [`Fingerprint::of_safetensors`].
    pub fn of_safetensors_with<P: AsRef<Path>>(
        files: &[P],
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self, FingerprintError> {
        let tensors = all_tensors(files)?;
        let total = tensors.values().fold(0u64, |sum, (_, tensor)| sum.saturating_add(tensor.len));
        let mut done = 0u64;
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        let mut buffer = Vec::new();
        // Tensors in order of names hop between files; one file at a time stays open.
        let mut open: Option<(&Path, File)> = None;
        for (name, (path, tensor)) in &tensors {
            let io = |source| FingerprintError::Io { path: path.to_path_buf(), source };
            let mut file = match open.take() {
                Some((at, file)) if at == *path => file,
                _ => File::open(path).map_err(io)?,
            };
            hash_head(&mut hasher, name, tensor);
            file.seek(SeekFrom::Start(tensor.offset)).map_err(io)?;
            let mut left = tensor.len;
            while left > 0 {
                let want = left.min(CHUNK);
                buffer.clear();
                file.by_ref().take(want).read_to_end(&mut buffer).map_err(io)?;
                if u64::try_from(buffer.len()) != Ok(want) {
                    return Err(FingerprintError::Changed { path: path.to_path_buf() });
                }
                if buffer.len() < PARALLEL {
                    hasher.update(&buffer);
                } else {
                    hasher.update_rayon(&buffer);
                }
                left = left.saturating_sub(want);
                done = done.saturating_add(want);
                progress(done, total);
            }
            open = Some((path, file));
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }
}

/// All tensors of all files, by name.
fn all_tensors<P: AsRef<Path>>(files: &[P]) -> Result<BTreeMap<String, (&Path, Tensor)>, FingerprintError> {
    if files.is_empty() {
        return Err(FingerprintError::NoFiles);
    }
    let mut all: BTreeMap<String, (&Path, Tensor)> = BTreeMap::new();
    for path in files {
        let path = path.as_ref();
        for (name, tensor) in tensors_of(path)? {
            if let Some((first, _)) = all.get(&name) {
                let (first, second) = (first.to_path_buf(), path.to_path_buf());
                return Err(FingerprintError::DuplicateTensor { tensor: name, first, second });
            }
            all.insert(name, (path, tensor));
        }
    }
    Ok(all)
}

fn tensors_of(path: &Path) -> Result<BTreeMap<String, Tensor>, FingerprintError> {
    let io = |source| FingerprintError::Io { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    header::read(&mut file, len)
        .map_err(io)?
        .map_err(|source| FingerprintError::Header { path: path.to_path_buf(), source })
}

fn hash_head(hasher: &mut blake3::Hasher, name: &str, tensor: &Tensor) {
    for text in [name, &tensor.dtype] {
        hasher.update(&length(text.len()).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&length(tensor.shape.len()).to_le_bytes());
    for dim in &tensor.shape {
        hasher.update(&dim.to_le_bytes());
    }
    hasher.update(&tensor.len.to_le_bytes());
}

/// Lengths within a header fit u32: the header is at most 100 MB.
fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
