//! The one state in which a negotiator has something to decide: waiting for the peer's hello.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use avp_wire::ext::{self, FrameKind};
use avp_wire::{Frame, Metadata, Mode, PayloadType};

use super::config::Checked;
use super::{Established, HandshakeError, Reject};
use crate::session::{Session, SessionId};
use crate::{AVP_VERSION, Capabilities, Hello, MapLookup, MessageError, ResolveOptions, resolve};

/// Waits for the peer's hello; leaves this state by value, into a session or an error.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) local: Checked,
    pub(super) role: Role,
    pub(super) deadline: Instant,
}

#[derive(Debug)]
pub(super) enum Role {
    /// Said hello; the session's name comes with the answer.
    Client,
    /// Answers the first hello and names the session.
    Server(SessionId),
}

impl Waiting {
    /// The hello of this side, as a frame.
    pub(super) fn hello_frame(&self) -> Frame {
        let session_id = match &self.role {
            Role::Client => String::new(),
            Role::Server(id) => id.to_string(),
        };
        let hello = &self.local.config.hello;
        let identity = hello.identity.as_ref();
        let metadata = Metadata {
            session_id,
            source_agent_id: hello.agent_id.clone(),
            model_id: identity.map(|identity| identity.model_id.clone()).unwrap_or_default(),
            mode: Mode::Json,
            extra: BTreeMap::from([(ext::KIND.to_owned(), FrameKind::Hello.as_str().to_owned())]),
            ..Metadata::default()
        };
        Frame::new(metadata, self.local.hello_text.clone().into_bytes())
    }

    /// Takes the peer's hello: the answer, where one is due, and the session.
    pub(super) fn receive(
        self,
        frame: &Frame,
        now: Instant,
    ) -> Result<(Option<Frame>, Established), HandshakeError> {
        let remote = read_hello(frame)?;
        let capabilities = Capabilities::from_hello(&remote).map_err(HandshakeError::Malformed)?;
        let answer = match self.role {
            Role::Client => None,
            Role::Server(_) => Some(self.hello_frame()),
        };
        let id = match self.role {
            Role::Client => SessionId::parse(&frame.metadata.session_id).ok_or(HandshakeError::SessionId)?,
            Role::Server(id) => id,
        };
        let config = self.local.config;
        let remote_identity = remote.identity.clone().unwrap_or_default();
        let maps = config.maps.as_deref().map(|maps| -> &dyn MapLookup { maps });
        let options = ResolveOptions {
            maps,
            shared_tokens: None,
            local_weights: self.local.weights,
            remote_weights: capabilities.as_ref().and_then(|capabilities| capabilities.weights),
            policy: config.policy,
        };
        let resolution = resolve(&config.hello.identity.unwrap_or_default(), &remote_identity, &options);
        let session = Session {
            id,
            peer: config.peer,
            remote_agent: remote.agent_id.clone(),
            remote_identity,
            resolution,
            created_at: now,
            expires_at: later(now, config.session_ttl),
        };
        Ok((answer, Established { session, remote, capabilities }))
    }
}

fn read_hello(frame: &Frame) -> Result<Hello, HandshakeError> {
    if let Some(Reject { code, message }) = Reject::from_frame(frame) {
        return Err(HandshakeError::Rejected { code, message });
    }
    let is_hello = frame.kind() == Ok(Some(FrameKind::Hello))
        && frame.metadata.mode == Mode::Json
        && frame.metadata.payload_type == PayloadType::HiddenState;
    if !is_hello {
        return Err(HandshakeError::UnexpectedFrame);
    }
    let hello = Hello::from_json(&frame.payload).map_err(|error| match error {
        MessageError::TooLarge { limit, actual } => HandshakeError::TooLarge { limit, actual },
        other => HandshakeError::Malformed(other),
    })?;
    match major(&hello.avp_version) {
        Some(version) if Some(version) == major(AVP_VERSION) => Ok(hello),
        _ => {
            let remote = hello.avp_version.chars().take(32).collect();
            Err(HandshakeError::Version { local: AVP_VERSION, remote })
        }
    }
}

/// The major version of `major.minor.patch`, of which the latter two may be missing.
fn major(version: &str) -> Option<u32> {
    let major = version.split('.').next()?;
    if major.is_empty() || !major.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    major.parse().ok()
}

/// `at + wait`, or the latest time within that which can be told.
pub(super) fn later(at: Instant, wait: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    at.checked_add(wait.min(CENTURY)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: handshake 1.10
    #[test]
    fn versions_of_one_major_number_understand_each_other() {
        for good in ["0.6.2", "0.4", "0", "0.7.0-rc1"] {
            assert_eq!(major(good), major(AVP_VERSION), "{good}");
        }
        for bad in ["", "1.0.0", "v0.6", "+0.6", " 0.6", "-0", "99999999999.0"] {
            assert_ne!(major(bad), major(AVP_VERSION), "{bad}");
        }
    }
}
