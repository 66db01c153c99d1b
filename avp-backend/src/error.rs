//! What can go wrong in an engine.

use std::path::PathBuf;

use avp_wire::KvDtype;

/// Errors of an engine: loading a model, running it, moving its KV cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// A file of the model folder is missing.
    #[error("{} has no {what}; give a Hugging Face model folder with config.json, tokenizer.json and *.safetensors", path.display())]
    ModelFileMissing {
        /// The model folder.
        path: PathBuf,
        /// Which file.
        what: String,
    },
    /// A file of the model does not say what it must.
    #[error("{}: {problem}", path.display())]
    ModelFileInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what was expected.
        problem: String,
    },
    /// A model could not be had from the hub.
    #[error(
        "{model} is no folder here and could not be had from {endpoint}: {problem}; give a model folder, or check the id and the connection"
    )]
    Download {
        /// The hub id.
        model: String,
        /// The hub.
        endpoint: String,
        /// What it answered, or why it did not.
        problem: String,
    },
    /// The architecture or one of its options is not implemented.
    #[error("{what} is not supported; supported: {supported}")]
    Unsupported {
        /// What the model asks for.
        what: String,
        /// What there is.
        supported: String,
    },
    /// An option that the engine does not have.
    #[error(
        "{engine} has no option `{option}`; {}",
        instead.map_or_else(|| "leave it out".to_owned(), |other| format!("set `{other}`"))
    )]
    NoSuchOption {
        /// The engine, or what it loads.
        engine: &'static str,
        /// The option, as its field is called.
        option: &'static str,
        /// The option that the engine has for it.
        instead: Option<&'static str>,
    },
    /// More positions than the model's context window.
    #[error(
        "{needed} tokens do not fit the context window of {window} tokens; shorten the prompt or the context"
    )]
    ContextWindow {
        /// Positions asked for.
        needed: usize,
        /// Positions the model has.
        window: usize,
    },
    /// An input of the wrong length, an id out of range: the caller's mistake.
    #[error("{what}: expected {expected}, got {got}")]
    Shape {
        /// Which argument.
        what: &'static str,
        /// Expected number.
        expected: usize,
        /// Given number.
        got: usize,
    },
    /// A token id that the model has no row for.
    #[error(
        "token id {id} is not below the model's vocabulary size {vocab_size}; is the tokenizer another model's?"
    )]
    TokenId {
        /// The id.
        id: u32,
        /// Rows of the model's embedding table.
        vocab_size: usize,
    },
    /// A KV range outside of the cache.
    #[error(
        "layers {layers:?} by tokens {tokens:?} are not within {num_layers} layers by {num_tokens} tokens"
    )]
    KvRange {
        /// Asked layers.
        layers: std::ops::Range<usize>,
        /// Asked tokens.
        tokens: std::ops::Range<usize>,
        /// Layers there are.
        num_layers: usize,
        /// Tokens there are.
        num_tokens: usize,
    },
    /// The cache that a generation was to build on stopped arriving.
    #[error("the context stopped arriving; send the rest of it and ask again")]
    ContextInterrupted,
    /// The engine cannot compute in this type.
    #[error("{device} cannot compute in {dtype:?}: {reason}")]
    Dtype {
        /// Asked type.
        dtype: KvDtype,
        /// On which device.
        device: String,
        /// Why not.
        reason: String,
    },
    /// The tokenizer refused.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The engine itself failed.
    #[error("engine: {0}")]
    Engine(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A value that must be finite is NaN or infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value is NaN or infinite")]
pub struct NonFinite;
