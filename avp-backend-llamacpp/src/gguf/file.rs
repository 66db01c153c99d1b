//! A GGUF file whose head has been read and checked.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::error::{GgufError, GgufFault};
use super::expected;
use super::header::Head;
use super::meta::ModelMeta;
use super::tensor::TensorInfo;
use super::value::Value;
use super::vocabulary::Vocabulary;

/// A GGUF file: its metadata and where its tensors are.
///
/// ```no_run
/// use avp_backend_llamacpp::gguf::GgufFile;
///
/// let file = GgufFile::open("model.gguf")?;
/// let meta = file.meta()?;
/// println!("{}: {} layers, tokenizer {}", meta.architecture, meta.block_count, file.vocabulary()?.hash());
/// # Ok::<(), avp_backend_llamacpp::gguf::GgufError>(())
/// ```
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    head: Head,
    names: HashMap<String, usize>,
}

impl GgufFile {
    /// Reads and checks everything but the tensors' data, which stays on disk.
    ///
    /// # Errors
    ///
    /// Whatever llama.cpp could not read, or what is beyond any model: see [`GgufFault`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, GgufError> {
        let path = path.as_ref();
        let read = || {
            // Asked before it is opened: opening a pipe waits for somebody to write into it.
            if !std::fs::metadata(path)?.is_file() {
                return Err(GgufFault::NotAFile);
            }
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            Head::read(BufReader::with_capacity(BUFFER, file), len)
        };
        let head = read().map_err(|fault| GgufError { path: path.to_owned(), fault })?;
        let names = head.tensors.iter().enumerate().map(|(i, tensor)| (tensor.name.clone(), i)).collect();
        Ok(Self { path: path.to_owned(), head, names })
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the format: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.head.version
    }

    /// What the start of each tensor's data is a multiple of, in bytes from the start of all data.
    #[must_use]
    pub fn alignment(&self) -> u64 {
        self.head.alignment
    }

    /// The value of a metadata key, of whatever type.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.head.values.get(key)
    }

    /// The metadata keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.head.values.keys().map(String::as_str)
    }

    /// The tensors, in the order of their data.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.head.tensors
    }

    /// The tensor of a name.
    ///
    /// # Errors
    ///
    /// [`GgufFault::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        let missing = || self.error(GgufFault::MissingTensor { name: crate::shown::shown(name) });
        self.find_tensor(name).ok_or_else(missing)
    }

    /// The tensor of a name, if there is one.
    #[must_use]
    pub fn find_tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.head.tensors.get(*self.names.get(name)?)
    }

    /// What model it is, where that is a causal language model whose KV cache can be shared.
    ///
    /// # Errors
    ///
    /// Models of other kinds, by name, and values on which llama.cpp would abort.
    pub fn meta(&self) -> Result<ModelMeta, GgufError> {
        ModelMeta::of(self)
    }

    /// The tokenizer's vocabulary.
    ///
    /// # Errors
    ///
    /// Tokenizers of other kinds than byte-level BPE and SentencePiece, and vocabularies on which llama.cpp would abort.
    pub fn vocabulary(&self) -> Result<Vocabulary<'_>, GgufError> {
        Vocabulary::of(self)
    }

    /// Checks that the tensors are those of the model, each of the shape that the metadata say and of a type that llama.cpp
    /// computes with. Of the architectures llama, qwen2 and qwen3; those of others are not known here and pass.
    ///
    /// # Errors
    ///
    /// The first tensor that is missing, of another shape or type, or of no such model; metadata that fit no tensors.
    pub fn check_tensors(&self, meta: &ModelMeta) -> Result<(), GgufError> {
        expected::check(self, meta)
    }

    pub(super) fn error(&self, fault: GgufFault) -> GgufError {
        GgufError { path: self.path.clone(), fault }
    }
}

const BUFFER: usize = 64 << 10;
