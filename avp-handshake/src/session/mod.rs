//! Sessions: what two peers agreed on, with whom, and until when.

mod store;

pub use store::{SessionError, SessionStore, StoreLimits};

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{ModelIdentity, Resolution};

/// Time that a session lives where nobody says otherwise: one hour, as in the SDK.
pub const DEFAULT_SESSION_TTL: Duration = Duration::from_secs(3600);

/// Longest session id that is taken from a peer, in bytes. Those made here have 32.
const MAX_ID_BYTES: usize = 128;

/// Name of a session on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(String);

impl SessionId {
    /// An id made of 16 bytes from a cryptographic source: 32 lowercase hexadecimal digits.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(hex::encode(bytes))
    }

    /// An id that a peer sent: 1 to 128 printable ASCII characters without spaces; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let sound = (1..=MAX_ID_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        sound.then(|| Self(text.to_owned()))
    }

    /// The id as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who is at the other end, as the transport knows it: a certificate's fingerprint, a token's name, a Unix user.
///
/// Two connections get the same id only where the transport has proof that the same party is behind both. A
/// transport without authentication names each connection anew, so that sessions do not outlive connections.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(Arc<str>);

impl PeerId {
    /// A peer of this name.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An agreement between two peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name on the wire.
    pub id: SessionId,
    /// The only peer that may use it.
    pub peer: PeerId,
    /// What the peer calls itself.
    pub remote_agent: String,
    /// The model that the peer announced; all empty where it has none.
    pub remote_identity: ModelIdentity,
    /// What may be sent.
    pub resolution: Resolution,
    /// When it was agreed.
    pub created_at: Instant,
    /// When it ends.
    pub expires_at: Instant,
}

impl Session {
    /// Whether its time is over. As in the SDK, it still lives in its last instant.
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        now > self.expires_at
    }
}
