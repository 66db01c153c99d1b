//! What every engine offers and what is written once on top of it.
//!
//! A [`Backend`] is a loaded model; a [`Sequence`] is one run of tokens through it together with its KV
//! cache. Everything else here is engine-independent.

mod backend;
mod error;

pub use backend::{
    Backend, Input, KvRange, ModelInfo, RealignmentProducts, Sequence, SequenceExt, TextCodec, TokenMix,
};
pub use error::BackendError;
