//! The handshake of the Agent Vector Protocol, without sockets, threads or clocks.
//!
//! Two peers tell each other which model they run and find out what they can share: a computed context, a projected
//! one, or text. This crate holds what that takes: [`ModelIdentity`] with its hashes, the [`Hello`] they exchange,
//! the six rules ([`resolve()`]), sessions, fingerprints of checkpoints ([`fingerprint`]), and the [`Negotiator`]
//! that puts them together.
//!
//! Read [`Negotiator`] and [`resolve()`] first. Time is passed in as [`std::time::Instant`], randomness as bytes, so every
//! run can be repeated exactly.
//!
//! Hashes are equal, byte for byte, to those of the Python SDK; [`json`] is there for that reason.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::as_conversions)
)]

mod capabilities;
mod config;
pub mod fingerprint;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod hash;
mod hello;
mod identity;
pub mod json;
mod message;
mod negotiator;
mod resolve;
mod session;
mod text;

pub use capabilities::{Capabilities, EXTENSION_KEY, VocabularyClaim, without_device};
pub use config::ConfigError;
pub use hash::{model_hash, tokenizer_hash};
pub use hello::{AVP_VERSION, Hello, MAX_HELLO_BYTES};
pub use identity::ModelIdentity;
pub use message::MessageError;
pub use negotiator::{
    ConfigureError, DEFAULT_HANDSHAKE_TIMEOUT, Established, Event, HandshakeError, Negotiator,
    NegotiatorConfig, Reject,
};
pub use resolve::{
    MIN_SHARED_TOKENS, MapLookup, Resolution, ResolutionPath, ResolveOptions, Verification,
    VerificationPolicy, count_shared_tokens, resolve,
};
pub use session::{DEFAULT_SESSION_TTL, PeerId, Session, SessionError, SessionId, SessionStore, StoreLimits};
pub use text::{MAX_TEXT_BYTES, TextMessage};
