//! Why a question has no answer, or a context no taker.

use std::time::Duration;

use avp_backend::{ContextError, ProjectionError};
use avp_handshake::{MessageError, Reject};
use avp_transport::{Incompatible, LimitExceeded, PeerFault, TlsFault, TransportError, UrlError};
use avp_wire::slab::SlabError;
use avp_wire::vocabulary::VocabularyError;
use avp_wire::{ErrorCode, KvError};

use crate::outgoing::SourceError;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The address is not one.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// The connection or the handshake failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The context is not one.
    #[error("the context cannot be sent: {0}")]
    Context(#[from] ContextError),
    /// The peer said no.
    #[error("the peer refused{}: {message}", code.map(|c| format!(" ({})", c.as_str())).unwrap_or_default())]
    Refused {
        /// Why, where the code is known here.
        code: Option<ErrorCode>,
        /// In its words.
        message: String,
    },
    /// Nothing of the context can be handed over.
    #[error(
        "{why}, and the text behind the context is not at hand; give that text (--text), or ask a peer that runs the model that made the context"
    )]
    NothingToHandOver {
        /// Why the KV cache will not do.
        why: String,
    },
    /// The answer was to obey a grammar ([`GenerateOptions::grammar`](crate::GenerateOptions::grammar)).
    #[error("grammars are not sent to other agents; ask without one, or generate here")]
    Grammar,
    /// The peer's answer is not a text message.
    #[error("the peer's answer is not a text message: {0}")]
    Answer(MessageError),
    /// The context cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// What the peer says to the transfer of a context makes no sense.
    #[error("the peer's answer to the transfer of the context is none: {0}")]
    Protocol(SlabError),
    /// The peer takes no contexts in slabs.
    #[error("the peer does not take contexts in slabs; ask it with the context instead")]
    NoSlabs,
    /// The peer runs another model.
    #[error("the context cannot be handed over: {why}")]
    OtherModel {
        /// How the models differ.
        why: String,
    },
    /// Slabs arrived damaged again and again.
    #[error("the peer still lacked slabs after {rounds} rounds; something between damages them")]
    Damaged {
        /// How often they were sent.
        rounds: usize,
    },
    /// The thread that reads the context ended without a result.
    #[error("the thread that reads the context ended without a result")]
    Lost,
    /// The peer's vocabulary is none, or not the one that its hello announces.
    #[error("the peer's vocabulary: {0}")]
    Vocabulary(#[from] VocabularyError),
    /// Hidden states could not be made distributions.
    #[error("the hidden states cannot be projected: {0}")]
    Projection(#[from] ProjectionError),
    /// What the peer says a projection is worth makes no sense.
    #[error(
        "the peer did not say what a projection into its model is worth; pass the quality gate by, or hand over text"
    )]
    Validation,
    /// The peer ended the connection instead of answering.
    #[error("the peer closed the connection without an answer; see its log")]
    Closed,
}

impl AskError {
    /// Whether the connection failed, or the peer was busy, so that the same on another one may succeed.
    #[must_use]
    pub fn is_worth_another_try(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Refused { code, .. } => *code == Some(ErrorCode::Busy),
            Self::Transport(TransportError::Io(_)) => true,
            Self::Transport(TransportError::Limit(limit)) => {
                matches!(limit, LimitExceeded::Deadline { .. } | LimitExceeded::NoAnswer { .. })
            }
            Self::Transport(TransportError::Incompatible(Incompatible::Tls {
                fault: TlsFault::Ended,
                ..
            })) => true,
            Self::Transport(error @ TransportError::Incompatible(_)) => {
                error.code() == ErrorCode::Busy || self.retry_after().is_some()
            }
            Self::Transport(TransportError::Peer(fault)) => {
                matches!(fault, PeerFault::DamagedFrame { .. } | PeerFault::Truncated { .. })
            }
            _ => false,
        }
    }

    /// How long the peer wants to be left alone, where it says so (`Retry-After`).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Transport(TransportError::Incompatible(Incompatible::Refused { refusal, .. })) => {
                refusal.retry_after
            }
            _ => None,
        }
    }
}

impl From<Reject> for AskError {
    fn from(Reject { code, message }: Reject) -> Self {
        Self::Refused { code, message }
    }
}

impl From<KvError> for AskError {
    fn from(error: KvError) -> Self {
        Self::Context(error.into())
    }
}
