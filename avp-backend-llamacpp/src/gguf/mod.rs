//! A reader of GGUF files of versions 2 and 3 (little-endian) that trusts none of their bytes.
//!
//! [`GgufFile::open`] checks what llama.cpp takes for granted, so that a broken file is an error with a name and not an abort:
//! counts and lengths against the bytes that are there, types, alignment, and that every tensor lies within the file where the
//! format wants it. [`GgufFile::meta`] and [`GgufFile::vocabulary`] then say what model it is. Tensor data is never read.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod access;
mod architecture;
mod array;
mod error;
mod expected;
mod file;
mod ggml_type;
mod header;
mod layers;
mod meta;
mod source;
mod tensor;
mod value;
mod vocabulary;

pub use array::{Array, StrArray};
pub use error::{GgufError, GgufFault};
pub use file::GgufFile;
pub use ggml_type::GgmlType;
pub use meta::ModelMeta;
pub use tensor::TensorInfo;
pub use value::{Value, ValueType};
pub use vocabulary::{TokenKind, Vocabulary};
