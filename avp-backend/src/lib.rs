//! What every engine offers, and what is written once on top of it.
//!
//! A [`Backend`] is a loaded model; a [`Sequence`] is one run of tokens through it with its KV cache. On these
//! stand the operations of an agent: [`think`] reads a prompt, takes latent steps and leaves a [`Context`];
//! [`generate`] writes text after one. A [`Context`] goes to and comes from wire frames, and never into another
//! model than the one that made it.
//!
//! Engines are crates of their own (`avp-backend-candle`); this one knows none. Read [`Backend`] first if you
//! write an engine, [`Context`] first if you use one.

mod backend;
mod constrain;
mod context;
mod error;
mod exp;
mod filled;
mod generate;
mod grammar;
mod hidden;
mod import;
mod map;
mod mix;
mod project;
mod prompt;
mod realign;
mod sample;
mod stream;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod think;
mod transfer;

pub use avp_handshake::{Verification, VerificationPolicy};
pub use backend::{
    Backend, Input, KvPart, KvRange, ModelInfo, RealignmentProducts, Sequence, TextCodec, TokenMix,
};
pub use context::Context;
pub use error::{BackendError, NonFinite};
pub use exp::exp_of_nonpositive;
pub use filled::Filled;
pub use generate::{
    GenerateError, GenerateEvent, GenerateOptions, Generation, StopReason, generate, generate_arriving,
};
pub use grammar::{Grammar, GrammarConstraint, GrammarError, GrammarFault, TokenPieces};
pub use hidden::{HiddenError, HiddenStates};
pub use import::{ContextImport, check_context, part};
pub use map::{ListedMap, MapEnd, MapError, MapFault, MapFolder, MapProjection, ModelKey, ProjectionMap};
pub use mix::{LEFT_OUT_F32, LEFT_OUT_HALF, SoftmaxMix};
pub use project::{
    GateMode, GateOptions, GateReason, MOST_VALIDATION_TEXTS, MOST_VALIDATION_TOKENS, ProjectionMetrics,
    ProjectionOptions, SharedTokens, TransferFacts, UnknownGateMode, VALIDATION_TEXTS, Validation,
    ValidationCache, ValidationKey, ValidationText, Verdict, distributions, effective_rank,
    embed_distributions, ending, projection_metrics, token_hashes, validate, validate_pair, validation_of,
    validation_texts, validation_texts_hash, vocabulary_mediated, vocabulary_overlap,
};
pub use prompt::{ChatMessage, Prompt, PromptError, render_chat_template};
pub use realign::{
    LatentProjection, LinearMap, ProjectionError, SMALLEST_NORM, left_out_bound, scale_to_norm,
};
pub use sample::SamplingOptions;
pub use stream::TextStream;
pub use think::{Progress, ThinkError, ThinkOptions, think};
pub use transfer::{ContextError, ContextStamp};
