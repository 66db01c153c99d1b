//! What can go wrong with a map: making one, using it, keeping it in a file.

use std::io;
use std::path::{Path, PathBuf};

use avp_handshake::MIN_SHARED_TOKENS;

use crate::BackendError;

/// Why a projection map could not be made, used, written or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The two vocabularies have too little in common.
    #[error("the two models share {0} tokens, of {MIN_SHARED_TOKENS} that a map needs; hand over text")]
    TooFewShared(usize),
    /// A model that is not the one of the map.
    #[error(
        "the map is for another {end}: its {what} is {map}, this model's is {model}; load the model that it was made for, or make a map for this one"
    )]
    OtherModel {
        /// `source` or `target`.
        end: &'static str,
        /// Which property differs.
        what: &'static str,
        /// The map's.
        map: String,
        /// The model's.
        model: String,
    },
    /// The parts of a map do not go together.
    #[error(transparent)]
    Map(#[from] MapFault),
    /// A file is not a map.
    #[error("{} is no valid map: {fault}; make it again, or copy it again", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: MapFault,
    },
    /// There is a map of these two models already.
    #[error("{} exists; replace it, or remove it first", .0.display())]
    Exists(PathBuf),
    /// A name that is none of a map.
    #[error("`{0}` is no name of a map; names have no separators, as in 0011223344556677_8899aabbccddeeff")]
    Id(String),
    /// There is no map of this name.
    #[error("there is no map {id} in {}", folder.display())]
    NotFound {
        /// The name.
        id: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The engine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl MapError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }

    pub(super) fn file(path: &Path) -> impl FnOnce(MapFault) -> Self + '_ {
        |fault| Self::File { path: path.to_owned(), fault }
    }
}

/// What is wrong with a map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapFault {
    /// More bytes than a map, or its header, may have.
    #[error("{what} of {len} bytes, of at most {most}")]
    TooLarge {
        /// The file, or its header.
        what: &'static str,
        /// Its length.
        len: u64,
        /// The most there may be.
        most: u64,
    },
    /// The container is broken or cut off.
    #[error("not a whole safetensors file ({0})")]
    Safetensors(String),
    /// Safetensors, but without a map in it.
    #[error("it is no projection map: its metadata has no `avp.map`")]
    NoMap,
    /// A version of the format that is not known here.
    #[error("version `{0}` of the format, of which 1 is known here")]
    Version(String),
    /// A method that is not known here.
    #[error("method `{0}`, of which vocab_mediated, vocab_overlap and linear are known")]
    Method(String),
    /// A field of the header that has to be there.
    #[error("`{0}` is missing")]
    Missing(String),
    /// A field that cannot be.
    #[error("`{field}` is {problem}")]
    Field {
        /// Which one.
        field: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A model that has neither a hash nor a fingerprint: nothing tells it from others.
    #[error(
        "the {0} has neither model_hash nor weights fingerprint, so that nothing tells it from other models"
    )]
    Unidentified(&'static str),
    /// A tensor of another type.
    #[error("tensor `{tensor}` is of type {got}, not {expected}")]
    Dtype {
        /// Which one.
        tensor: &'static str,
        /// The type it has to have.
        expected: String,
        /// The type it has.
        got: String,
    },
    /// A tensor of another shape.
    #[error("tensor `{tensor}` is of shape {got:?}, not {expected:?}")]
    Shape {
        /// Which one.
        tensor: &'static str,
        /// The shape it has to have.
        expected: Vec<usize>,
        /// The shape it has.
        got: Vec<usize>,
    },
    /// A tensor that does not belong to the method.
    #[error("tensor `{0}` is none of this map's")]
    UnknownTensor(String),
    /// NaN or infinity.
    #[error("`{0}` has a value that is NaN or infinite")]
    NonFinite(&'static str),
    /// Ids of the source that are repeated, or not ascending.
    #[error("source ids do not ascend at {0}")]
    Order(u32),
    /// An id that the model has no row for.
    #[error("id {id} of the {end} is not below its {rows} rows")]
    Id {
        /// `source` or `target`.
        end: &'static str,
        /// The id.
        id: u32,
        /// Rows of the model.
        rows: u32,
    },
    /// Too few or too many tokens for these vocabularies.
    #[error("{shared} shared tokens, of {least} to {most} that there may be")]
    Shared {
        /// How many it says.
        shared: usize,
        /// The fewest.
        least: usize,
        /// The most.
        most: usize,
    },
}
