//! What can be wrong with a GGUF file.

use std::io;
use std::path::PathBuf;

use super::ggml_type::GgmlType;

/// A GGUF file that cannot be used, and why, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct GgufError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong and what to do.
    pub fault: GgufFault,
}

/// What is wrong with a GGUF file. Names and keys from the file are escaped and cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufFault {
    // The file is no GGUF file that can be read.
    /// A folder, a pipe, a device.
    #[error("is not a regular file; give a GGUF file")]
    NotAFile,
    /// It goes on after its last tensor.
    #[error("goes on for {trailing} bytes after its last tensor; copy it again")]
    Trailing {
        /// How many.
        trailing: u64,
    },
    /// It starts with something else.
    #[error(
        "is not a GGUF file (it starts with {start}); give a file that llama.cpp's conversion or Ollama made"
    )]
    NotGguf {
        /// Its first bytes.
        start: String,
    },
    /// Every number in it has its bytes in the other order.
    #[error(
        "is a big-endian GGUF file, and only little-endian ones are read; convert the model again without --bigendian"
    )]
    BigEndian,
    /// A version that is not read.
    #[error(
        "is GGUF version {version}; versions 2 and 3 are read: convert the model again with a current llama.cpp"
    )]
    Version {
        /// The version.
        version: u32,
    },
    /// It ends too early, or a count or length in it is not true.
    #[error(
        "ends within {what} ({left} bytes are left at byte {at}): it is truncated or damaged; download or convert it again"
    )]
    Truncated {
        /// What should have followed.
        what: String,
        /// Where.
        at: u64,
        /// Bytes that follow.
        left: u64,
    },
    /// Metadata and tensor infos beyond any known model's.
    #[error(
        "has more than {limit} bytes of metadata, more than any model needs; it is damaged or not a model"
    )]
    HeadTooLarge {
        /// Most bytes that are read.
        limit: u64,
    },
    /// More keys or tensors than any model has.
    #[error("says it has {count} {what}, and {limit} is the most that is read; it is damaged or not a model")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// Most that are read.
        limit: u64,
    },
    /// A name or key longer than the format allows.
    #[error(
        "has {what} of {len} bytes, and {limit} is the most; it is damaged: download or convert it again"
    )]
    StringTooLong {
        /// Which string.
        what: String,
        /// Its length.
        len: u64,
        /// The longest allowed.
        limit: u64,
    },
    /// Text that is not text.
    #[error("has {what} that is not UTF-8 ('{text}'); convert the model again")]
    NotUtf8 {
        /// Which string.
        what: String,
        /// Its start, as far as it is text.
        text: String,
    },

    // Metadata.
    /// A key without a name.
    #[error("has a metadata key without a name; convert the model again")]
    EmptyKey,
    /// A key that is there twice.
    #[error("has the metadata key '{key}' twice; convert the model again")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A type of value that the format does not have.
    #[error(
        "has the metadata key '{key}' with a value of the unknown type {id}; it is damaged, or newer than this reader"
    )]
    UnknownValueType {
        /// The key.
        key: String,
        /// Number of the type.
        id: u32,
    },
    /// A boolean that is neither 0 nor 1.
    #[error(
        "has the metadata key '{key}' with a bool that is neither 0 nor 1; it is damaged: download or convert it again"
    )]
    NotABool {
        /// The key.
        key: String,
    },
    /// An array of arrays.
    #[error(
        "has the metadata key '{key}' with an array of arrays, which llama.cpp does not read; convert the model again"
    )]
    NestedArray {
        /// The key.
        key: String,
    },
    /// An alignment that is no power of two.
    #[error("has general.alignment {alignment}, which is not a power of two; convert the model again")]
    Alignment {
        /// The alignment.
        alignment: u32,
    },
    /// A key that must be there.
    #[error(
        "has no metadata key '{key}', which this model must have; convert the model again with a current llama.cpp"
    )]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A value of another type than the key has.
    #[error("has the metadata key '{key}' as {got}, and it must be {expected}; convert the model again")]
    WrongType {
        /// The key.
        key: String,
        /// What it is.
        got: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A value that makes no sense.
    #[error("has the metadata key '{key}' as {value}, and it must be {expected}; convert the model again")]
    BadValue {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it must be.
        expected: String,
    },

    // Tensors.
    /// A tensor without a name.
    #[error("has a tensor without a name; convert the model again")]
    EmptyTensorName,
    /// Two tensors of one name.
    #[error("has the tensor '{name}' twice; convert the model again")]
    DuplicateTensor {
        /// The name.
        name: String,
    },
    /// More dimensions than four.
    #[error(
        "has the tensor '{name}' with {dims} dimensions, and 4 is the most; it is damaged: download or convert it again"
    )]
    TooManyDims {
        /// The tensor.
        name: String,
        /// Its dimensions.
        dims: u32,
    },
    /// A shape with a dimension of 0, or of more elements than 63 bits can count.
    #[error(
        "has the tensor '{name}' with the shape {dims:?}, which no tensor can have; it is damaged: download or convert it again"
    )]
    BadShape {
        /// The tensor.
        name: String,
        /// Its shape.
        dims: Vec<u64>,
    },
    /// An element type that is not known.
    #[error(
        "has the tensor '{name}' of the unknown type {id}; quantise the model again, or use a newer version of this program"
    )]
    UnknownTensorType {
        /// The tensor.
        name: String,
        /// Number of the type.
        id: u32,
    },
    /// An element type that llama.cpp no longer reads.
    #[error(
        "has the tensor '{name}' of type {ty}, which llama.cpp no longer reads; quantise the model again"
    )]
    RemovedTensorType {
        /// The tensor.
        name: String,
        /// The type.
        ty: &'static str,
    },
    /// Rows that are no whole number of blocks.
    #[error("has the tensor '{name}' with rows of {row} elements, no multiple of the {} of a {ty} block; quantise the model again", ty.block_len())]
    RowNotInBlocks {
        /// The tensor.
        name: String,
        /// Elements of a row.
        row: u64,
        /// Its type.
        ty: GgmlType,
    },
    /// Data that starts where no tensor may.
    #[error(
        "has the tensor '{name}' at offset {offset}, no multiple of the alignment {alignment}; convert the model again"
    )]
    Unaligned {
        /// The tensor.
        name: String,
        /// Its offset within the data.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// Data within that of another tensor.
    #[error(
        "has the tensor '{name}' at offset {offset}, before the end of the tensor before it ({free}): they overlap; convert the model again"
    )]
    Overlap {
        /// The tensor.
        name: String,
        /// Its offset within the data.
        offset: u64,
        /// First offset that is free.
        free: u64,
    },
    /// Data after a gap.
    #[error(
        "has the tensor '{name}' at offset {offset} where {free} is due, and llama.cpp reads no files with gaps; convert the model again"
    )]
    Gap {
        /// The tensor.
        name: String,
        /// Its offset within the data.
        offset: u64,
        /// Where it is due.
        free: u64,
    },
    /// Data beyond the end of the file.
    #[error(
        "has the tensor '{name}' from byte {offset} for {len} bytes, beyond its end at {file_len}: it is truncated; download or convert it again"
    )]
    OutOfFile {
        /// The tensor.
        name: String,
        /// Where its data starts in the file.
        offset: u64,
        /// Bytes of its data.
        len: u64,
        /// Bytes of the file.
        file_len: u64,
    },
    /// A tensor that must be there.
    #[error("has no tensor '{name}', which this model must have; convert the model again")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A shape that does not go with the metadata.
    #[error(
        "has the tensor '{name}' with the shape {dims:?}, and its metadata make it {expected:?}; convert the model again"
    )]
    TensorShape {
        /// The tensor.
        name: String,
        /// Its shape.
        dims: Vec<u64>,
        /// The shape that the metadata ask for.
        expected: Vec<u64>,
    },
    /// A type in which llama.cpp does not compute with this tensor.
    #[error(
        "has the tensor '{name}' of type {ty}, and llama.cpp takes {expected}; convert or quantise the model again"
    )]
    TensorType {
        /// The tensor.
        name: String,
        /// Its type.
        ty: GgmlType,
        /// What it should be.
        expected: &'static str,
    },
    /// A tensor that does not belong to the architecture, or changes what is computed with the output table.
    #[error(
        "has the tensor '{name}', which no {architecture} model that is supported has; convert the model again, or give another"
    )]
    UnknownTensor {
        /// The tensor.
        name: String,
        /// The architecture.
        architecture: String,
    },

    // Models that are not supported.
    /// A model that does not keep keys and values of every token.
    #[error(
        "is a '{architecture}' model, which is recurrent or hybrid and has no KV cache that can be shared; give a transformer such as Llama or Qwen2"
    )]
    Recurrent {
        /// The architecture.
        architecture: String,
    },
    /// A model that does not write text from left to right.
    #[error(
        "is a '{architecture}' model, which is not a causal language model; give a text-generating one such as Llama or Qwen2"
    )]
    NotCausal {
        /// The architecture.
        architecture: String,
    },
    /// A cache that forgets.
    #[error(
        "is a '{architecture}' model with sliding-window attention, whose cache misses tokens and cannot be shared; give one without"
    )]
    SlidingWindow {
        /// The architecture.
        architecture: String,
    },
    /// A cache that holds no keys and values.
    #[error(
        "is a '{architecture}' model whose cache is compressed (multi-head latent attention) and cannot be shared; give one without"
    )]
    LatentAttention {
        /// The architecture.
        architecture: String,
    },
    /// Layers whose caches have different shapes.
    #[error(
        "has layers that differ in {what}, and only caches of one shape can be shared; give a model whose layers are alike"
    )]
    UnequalLayers {
        /// In what.
        what: String,
    },
    /// One of several files.
    #[error("is one of {count} parts of a model; merge them first with llama-gguf-split --merge")]
    Split {
        /// How many parts there are.
        count: u16,
    },
    /// A tokenizer whose vocabulary cannot be compared.
    #[error(
        "has the tokenizer '{model}', and 'gpt2' (byte-level BPE) and 'llama' (SentencePiece) are supported; give another model"
    )]
    Tokenizer {
        /// The tokenizer.
        model: String,
    },
    /// A byte that no token stands for, on which llama.cpp ends the process when text has it.
    #[error("has no token for the byte {byte:#04x}, which its tokenizer needs; convert the model again")]
    MissingByte {
        /// The byte.
        byte: u8,
    },
    /// One token string for two ids, on which llama.cpp aborts.
    #[error(
        "has the token '{token}' twice in its vocabulary (ids {first} and {second}); convert the model again"
    )]
    DuplicateToken {
        /// The token.
        token: String,
        /// One id.
        first: u32,
        /// The other.
        second: u32,
    },

    /// The file could not be read.
    #[error("cannot be read: {0}; check the path and its permissions")]
    Io(#[from] io::Error),
}
