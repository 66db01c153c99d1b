//! What an application links: agents that think, hand over what they computed, and answer one another.
//!
//! An [`Agent`] is a loaded model with a name. It thinks and generates by itself ([`Agent::think`],
//! [`Agent::generate`]), answers others ([`serve`]), and asks them ([`Peer::connect`], [`Peer::ask`]). What may be
//! handed over is decided from the negotiated session ([`choose`]): the KV cache to the same model, text to any
//! other. Contexts live in files through [`save_context`] and [`load_context`].
//!
//! Engine work runs on blocking threads, never on the async workers.

mod accept;
mod agent;
mod answering;
mod ask_error;
mod asking;
mod choice;
mod context_sink;
mod cross_model;
mod deliver;
mod exchange;
mod file;
mod http;
mod incoming;
mod kept;
mod lane;
mod model;
mod outgoing;
mod peer;
mod places;
mod receive;
mod retry;
mod server;
mod session;
mod text_key;
mod turned_away;

pub use avp_backend::{
    Backend, BackendError, ChatMessage, Context, ContextError, ContextStamp, GateMode, GateOptions,
    GenerateError, GenerateEvent, GenerateOptions, Generation, Grammar, GrammarError, HiddenError,
    HiddenStates, Input, KvRange, LatentProjection, LinearMap, ListedMap, MapEnd, MapError, MapFault,
    MapFolder, MapProjection, ModelInfo, ModelKey, Progress, ProjectionMap, Prompt, SamplingOptions,
    Sequence, SharedTokens, StopReason, ThinkError, ThinkOptions, Validation, Verification,
    VerificationPolicy, generate, think, validate_pair,
};
pub use avp_backend_candle::{
    CandleBackend, CopyBandwidth, Device, LoadProgress, ProgressFn, QueuedSteps, Shape,
};
/// GGUF files judged and read, and Ollama's models found, with or without llama.cpp.
pub use avp_backend_llamacpp::{KvType, Probe, gguf, ollama};
pub use avp_handshake::{Hello, ModelIdentity, Resolution, ResolutionPath};
/// Transports, certificates and tokens.
pub use avp_transport as transport;
pub use avp_transport::{Options as TransportOptions, TransportError, TransportUrl, UrlError};
pub use avp_wire::{BufferPool, Frame, FrameHead, KvDtype, KvHeader, Limits, Metadata, ext};

pub use agent::{Agent, AgentError};
pub use ask_error::AskError;
pub use choice::{Choice, Handover, KvPath, choose};
pub use cross_model::{OutgoingHidden, Projected, project_into};
pub use deliver::Handed;
pub use exchange::Answer;
pub use file::{
    FileError, Inspection, Saved, inspect, load_context, open_context, open_saved, read_frame, save_context,
    save_hidden,
};
pub use model::{Engine, ModelOptions, describe_model, load_backend, random_backend, try_model};
pub use outgoing::{OutgoingContext, SourceError};
pub use peer::{Ask, Peer};
pub use receive::{ReceiveEvent, ReceiveInto, ReceiveOptions, Receiver, receive};
pub use retry::Retry;
pub use server::{ServeError, ServeOptions, Served, Server, serve};
pub use text_key::{text_of, with_text};

/// The README's examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
