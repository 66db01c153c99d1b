//! The handshake as a state machine without IO.

mod config;
mod error;
mod reject;
#[cfg(test)]
mod tests;
mod waiting;

pub use config::{ConfigureError, DEFAULT_HANDSHAKE_TIMEOUT, NegotiatorConfig};
pub use error::HandshakeError;
pub use reject::Reject;

use std::collections::VecDeque;
use std::mem;
use std::time::Instant;

use avp_wire::{DecodeError, Frame};

use crate::session::{Session, SessionId};
use crate::{Capabilities, Hello, Resolution};
use waiting::{Role, Waiting, later};

/// One side of a handshake.
///
/// The client says hello, the server answers with its own hello and the name of the session, and both resolve. The
/// caller moves frames and time:
///
/// - send what [`poll_transmit`](Self::poll_transmit) gives, until it gives nothing;
/// - pass in what comes: [`handle_frame`](Self::handle_frame), [`handle_decode_error`](Self::handle_decode_error),
///   [`handle_closed`](Self::handle_closed);
/// - call [`handle_timeout`](Self::handle_timeout) when the time of [`poll_timeout`](Self::poll_timeout) has come;
/// - after each of these, look at [`poll`](Self::poll).
///
/// Exactly one event comes, at the latest with the deadline. After it nothing changes any more, and frames belong
/// to the session.
///
/// ```
/// use std::time::Instant;
/// use avp_handshake::{Event, Hello, ModelIdentity, Negotiator, NegotiatorConfig, PeerId, SessionId};
///
/// let model = ModelIdentity { model_hash: "44136fa3".into(), ..Default::default() };
/// let config = |name: &str| NegotiatorConfig::new(Hello::new(name, model.clone()), PeerId::new("connection 1"));
/// let now = Instant::now();
/// let mut client = Negotiator::client(config("a"), now).unwrap();
/// let mut server = Negotiator::server(config("b"), SessionId::from_random([7; 16]), now).unwrap();
///
/// server.handle_frame(client.poll_transmit().unwrap(), now);
/// client.handle_frame(server.poll_transmit().unwrap(), now);
/// let (Some(Event::Established(a)), Some(Event::Established(b))) = (client.poll(), server.poll()) else { panic!() };
/// assert_eq!(a.session.id, b.session.id);
/// assert_eq!(a.resolution().path.as_str(), "hash_match");
/// ```
#[derive(Debug)]
pub struct Negotiator {
    state: State,
    transmits: VecDeque<Frame>,
    event: Option<Event>,
}

#[derive(Debug)]
enum State {
    Waiting(Box<Waiting>),
    Finished,
}

/// How a handshake ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The peers agreed.
    Established(Box<Established>),
    /// They did not. Send what is left to send, then close the connection.
    Failed(HandshakeError),
}

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq)]
pub struct Established {
    /// The session; a server puts it into its [`SessionStore`](crate::SessionStore).
    pub session: Session,
    /// The peer's hello.
    pub remote: Hello,
    /// What the peer announced of our extension; `None` for a peer that does not speak it.
    pub capabilities: Option<Capabilities>,
}

impl Established {
    /// What may be sent.
    #[must_use]
    pub fn resolution(&self) -> &Resolution {
        &self.session.resolution
    }
}

impl Negotiator {
    /// The side that speaks first. Its time runs from `now`.
    ///
    /// # Errors
    /// [`ConfigureError`] where the hello is too long or its capabilities are not sound.
    pub fn client(config: NegotiatorConfig, now: Instant) -> Result<Self, ConfigureError> {
        let waiting = Self::waiting(config, Role::Client, now)?;
        let hello = waiting.hello_frame();
        Ok(Self { state: State::Waiting(Box::new(waiting)), transmits: VecDeque::from([hello]), event: None })
    }

    /// The side that answers, and names the session. Its time runs from `now`.
    ///
    /// # Errors
    /// [`ConfigureError`] where the server has no identity of its own, the hello is too long, or its capabilities
    /// are not sound.
    pub fn server(
        config: NegotiatorConfig,
        session_id: SessionId,
        now: Instant,
    ) -> Result<Self, ConfigureError> {
        if !config::has_identity(&config.hello) {
            return Err(ConfigureError::NoIdentity);
        }
        let waiting = Self::waiting(config, Role::Server(session_id), now)?;
        Ok(Self { state: State::Waiting(Box::new(waiting)), transmits: VecDeque::new(), event: None })
    }

    fn waiting(config: NegotiatorConfig, role: Role, now: Instant) -> Result<Waiting, ConfigureError> {
        let deadline = later(now, config.timeout);
        Ok(Waiting { local: config::check(config)?, role, deadline })
    }

    /// Takes a frame of the peer.
    pub fn handle_frame(&mut self, frame: Frame, now: Instant) {
        self.step(now, |waiting| waiting.receive(&frame, now));
    }

    /// Takes the news that what the peer sent is no frame.
    pub fn handle_decode_error(&mut self, error: DecodeError, now: Instant) {
        self.step(now, |_| Err(HandshakeError::Frame(error)));
    }

    /// Takes the news that a frame of `actual` bytes was not read because a hello has at most `limit`.
    pub fn handle_too_large(&mut self, limit: usize, actual: usize, now: Instant) {
        self.step(now, |_| Err(HandshakeError::TooLarge { limit, actual }));
    }

    /// Takes the news that the connection has ended.
    pub fn handle_closed(&mut self, now: Instant) {
        self.step(now, |_| Err(HandshakeError::Closed));
    }

    /// Takes the news that it is `now`; calling it early does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let State::Waiting(waiting) = &self.state else { return };
        if now >= waiting.deadline {
            let seconds = waiting.local.config.timeout.as_secs();
            self.step(now, |_| Err(HandshakeError::Timeout { seconds }));
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` once the handshake is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting(waiting) => Some(waiting.deadline),
            State::Finished => None,
        }
    }

    /// The next frame to send. After a failure this may be a [`Reject`] that names the code.
    pub fn poll_transmit(&mut self) -> Option<Frame> {
        self.transmits.pop_front()
    }

    /// How the handshake ended, once.
    pub fn poll(&mut self) -> Option<Event> {
        self.event.take()
    }

    /// Leaves the waiting state for good by `next`, or by the deadline where that has passed.
    fn step(
        &mut self,
        now: Instant,
        next: impl FnOnce(Waiting) -> Result<(Option<Frame>, Established), HandshakeError>,
    ) {
        let State::Waiting(waiting) = mem::replace(&mut self.state, State::Finished) else { return };
        let seconds = waiting.local.config.timeout.as_secs();
        let result =
            if now >= waiting.deadline { Err(HandshakeError::Timeout { seconds }) } else { next(*waiting) };
        let (transmit, event) = match result {
            Ok((answer, established)) => (answer, Event::Established(Box::new(established))),
            Err(error) => {
                let reject = error.is_told().then(|| Reject::new(error.code(), error.to_string()).to_frame());
                (reject, Event::Failed(error))
            }
        };
        self.transmits.extend(transmit);
        self.event = Some(event);
    }
}
