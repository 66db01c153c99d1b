//! What a negotiation needs to know of this side.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use avp_wire::{ErrorCode, Fault};

use crate::fingerprint::Fingerprint;
use crate::session::{DEFAULT_SESSION_TTL, PeerId};
use crate::{
    Capabilities, Hello, MAX_HELLO_BYTES, MapLookup, MessageError, ModelIdentity, VerificationPolicy,
};

/// Time for a whole handshake where nobody says otherwise (docs/spec/limits.md).
pub const DEFAULT_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What this side brings to a handshake.
#[derive(Clone)]
pub struct NegotiatorConfig {
    /// The hello of this side. Fingerprint, keys and codecs go into it with [`Capabilities::announce`].
    pub hello: Hello,
    /// Who the peer is, as the transport knows it.
    pub peer: PeerId,
    /// Which projection maps there are.
    pub maps: Option<Arc<dyn MapLookup + Send + Sync>>,
    /// What to do where weights cannot be compared.
    pub policy: VerificationPolicy,
    /// Time for the whole handshake; 10 s by default.
    pub timeout: Duration,
    /// Time that the session lives; one hour by default.
    pub session_ttl: Duration,
}

impl NegotiatorConfig {
    /// The defaults for this hello and peer.
    #[must_use]
    pub fn new(hello: Hello, peer: PeerId) -> Self {
        Self {
            hello,
            peer,
            maps: None,
            policy: VerificationPolicy::default(),
            timeout: DEFAULT_HANDSHAKE_TIMEOUT,
            session_ttl: DEFAULT_SESSION_TTL,
        }
    }
}

impl fmt::Debug for NegotiatorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NegotiatorConfig")
            .field("hello", &self.hello)
            .field("peer", &self.peer)
            .field("maps", &self.maps.is_some())
            .field("policy", &self.policy)
            .field("timeout", &self.timeout)
            .field("session_ttl", &self.session_ttl)
            .finish()
    }
}

/// Why no negotiator was made: the configuration is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigureError {
    /// A server was given no identity, or one that says nothing. A server that echoes its callers makes everything
    /// look like the same model.
    #[error("a server needs the identity of its own model; set hello.identity")]
    NoIdentity,
    /// The hello is longer than any peer takes.
    #[error("the hello has {actual} bytes, peers take at most {limit}; announce less")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
        /// Bytes of this hello.
        actual: usize,
    },
    /// The extension's entry in the hello's capabilities is not sound.
    #[error("the capabilities of the hello are not sound: {0}")]
    Capabilities(MessageError),
}

impl ConfigureError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }

    /// Whose fault it is: always the caller's.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.code().fault()
    }
}

/// A configuration that was checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) config: NegotiatorConfig,
    pub(super) hello_text: String,
    pub(super) weights: Option<Fingerprint>,
}

pub(super) fn check(config: NegotiatorConfig) -> Result<Checked, ConfigureError> {
    let hello_text = config.hello.to_json();
    if hello_text.len() > MAX_HELLO_BYTES {
        return Err(ConfigureError::TooLarge { limit: MAX_HELLO_BYTES, actual: hello_text.len() });
    }
    let announced = Capabilities::from_hello(&config.hello).map_err(ConfigureError::Capabilities)?;
    Ok(Checked { config, hello_text, weights: announced.and_then(|capabilities| capabilities.weights) })
}

/// Whether a server may answer with this hello.
pub(super) fn has_identity(hello: &Hello) -> bool {
    hello.identity.as_ref().is_some_and(|identity| *identity != ModelIdentity::default())
}
