//! Two negotiators against each other, and one against a hostile peer.

use std::time::Duration;

use avp_wire::ext::{self, FrameKind};
use avp_wire::{EncodeOptions, ErrorCode, Fault, Limits, Metadata, Mode};
use proptest::prelude::*;

use super::*;
use crate::fingerprint::Fingerprint;
use crate::session::PeerId;
use crate::{MAX_HELLO_BYTES, ModelIdentity, ResolutionPath, Verification, VerificationPolicy};

fn identity(hash: &str) -> ModelIdentity {
    ModelIdentity {
        model_family: "qwen2".into(),
        model_hash: hash.into(),
        hidden_dim: 64,
        num_layers: 2,
        tokenizer_hash: "t".into(),
        ..ModelIdentity::default()
    }
}

fn config(agent: &str, hash: &str, weights: Option<u8>) -> NegotiatorConfig {
    let mut hello = Hello::new(agent, identity(hash));
    if let Some(byte) = weights {
        let weights = Some(Fingerprint::from_bytes([byte; 32]));
        Capabilities { weights, ..Capabilities::default() }.announce(&mut hello);
    }
    NegotiatorConfig::new(hello, PeerId::new(format!("peer of {agent}")))
}

fn client(now: Instant) -> Negotiator {
    Negotiator::client(config("a", "h", None), now).unwrap()
}

fn server(now: Instant) -> Negotiator {
    Negotiator::server(config("b", "h", None), SessionId::from_random([1; 16]), now).unwrap()
}

/// A frame as the peer gets it.
fn wire(frame: Frame) -> Frame {
    let bytes = frame.encode(&EncodeOptions::default()).unwrap().to_vec();
    Frame::decode(bytes.into(), &Limits::strict()).unwrap()
}

fn shake(mut client: Negotiator, mut server: Negotiator, now: Instant) -> (Established, Established) {
    server.handle_frame(wire(client.poll_transmit().unwrap()), now);
    client.handle_frame(wire(server.poll_transmit().unwrap()), now);
    assert_eq!((client.poll_transmit(), server.poll_transmit()), (None, None));
    assert_eq!((client.poll_timeout(), server.poll_timeout()), (None, None));
    match (client.poll(), server.poll()) {
        (Some(Event::Established(a)), Some(Event::Established(b))) => (*a, *b),
        other => panic!("{other:?}"),
    }
}

fn failure(negotiator: &mut Negotiator) -> HandshakeError {
    match negotiator.poll() {
        Some(Event::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// The code of the refusal that goes out.
fn told(negotiator: &mut Negotiator) -> Option<ErrorCode> {
    negotiator
        .poll_transmit()
        .and_then(|frame| Reject::from_frame(&wire(frame)))
        .and_then(|reject| reject.code)
}

fn hello_frame(payload: impl Into<Vec<u8>>) -> Frame {
    let metadata = Metadata {
        mode: Mode::Json,
        session_id: "s".into(),
        extra: [(ext::KIND.to_owned(), FrameKind::Hello.to_string())].into(),
        ..Metadata::default()
    };
    Frame::new(metadata, payload.into())
}

// spec: handshake 4.5
#[test]
fn both_sides_agree_on_session_and_resolution() {
    let now = Instant::now();
    let (a, b) = shake(client(now), server(now), now);
    assert_eq!(a.session.id.as_str(), "01".repeat(16));
    assert_eq!(a.session.id, b.session.id);
    assert_eq!(a.resolution(), b.resolution());
    assert_eq!(a.resolution().path, ResolutionPath::HashMatch);
    assert_eq!((a.remote.agent_id.as_str(), b.remote.agent_id.as_str()), ("b", "a"));
    assert_eq!(b.session.peer, PeerId::new("peer of b"));
    assert_eq!(b.session.expires_at, now + Duration::from_secs(3600));
}

// spec: handshake 1.5
#[test]
fn the_server_answers_with_its_own_identity() {
    let now = Instant::now();
    let server =
        Negotiator::server(config("b", "other", None), SessionId::from_random([1; 16]), now).unwrap();
    let (a, _) = shake(client(now), server, now);
    assert_eq!(a.remote.identity, Some(identity("other")));
    assert_eq!(a.resolution().path, ResolutionPath::StructuralMatch);
}

// spec: handshake 1.5
#[test]
fn a_server_without_an_identity_is_not_built() {
    for identity in [None, Some(ModelIdentity::default())] {
        let hello = Hello { identity, ..Hello::default() };
        let config = NegotiatorConfig::new(hello, PeerId::new("p"));
        let built = Negotiator::server(config.clone(), SessionId::from_random([1; 16]), Instant::now());
        assert_eq!(built.unwrap_err(), ConfigureError::NoIdentity);
        assert!(Negotiator::client(config, Instant::now()).is_ok(), "a client may have no model");
    }
}

// spec: handshake 5.3, handshake 5.5
#[test]
fn fingerprints_decide_on_both_sides() {
    let now = Instant::now();
    let cases = [
        (Some(1), Some(1), VerificationPolicy::Allow, ResolutionPath::HashMatch, Verification::Verified),
        (
            Some(1),
            Some(2),
            VerificationPolicy::Allow,
            ResolutionPath::SharedTokenizer,
            Verification::Different,
        ),
        (Some(1), None, VerificationPolicy::Allow, ResolutionPath::HashMatch, Verification::Unverified),
        (
            Some(1),
            None,
            VerificationPolicy::Require,
            ResolutionPath::SharedTokenizer,
            Verification::Unverified,
        ),
    ];
    for (ours, theirs, policy, path, verification) in cases {
        let with = |agent, weights| NegotiatorConfig { policy, ..config(agent, "h", weights) };
        let client = Negotiator::client(with("a", ours), now).unwrap();
        let server = Negotiator::server(with("b", theirs), SessionId::from_random([1; 16]), now).unwrap();
        let (a, b) = shake(client, server, now);
        assert_eq!((a.resolution().path, a.resolution().verification), (path, verification));
        assert_eq!(a.resolution(), b.resolution());
        assert_eq!(b.capabilities.unwrap().weights, Some(Fingerprint::from_bytes([1; 32])));
    }
}

#[test]
fn a_config_that_no_peer_would_take_is_refused_at_once() {
    let mut long = config(&"x".repeat(MAX_HELLO_BYTES), "h", None);
    let error = Negotiator::client(long.clone(), Instant::now()).unwrap_err();
    assert!(matches!(error, ConfigureError::TooLarge { .. }) && error.fault() == Fault::Caller);
    long.hello = Hello::default();
    long.hello.capabilities.insert("avp.rs".into(), 5.into());
    let error = Negotiator::client(long, Instant::now()).unwrap_err();
    assert!(matches!(error, ConfigureError::Capabilities(_)));
}

// spec: handshake 1.3, handshake 1.10, handshake 4.1, handshake 4.3, handshake 4.8
#[test]
fn what_is_wrong_with_a_hello_has_its_code_and_is_told() {
    let now = Instant::now();
    let json_mode_missing =
        Frame { metadata: Metadata { mode: Mode::Latent, ..hello_frame("").metadata }, ..hello_frame("{}") };
    let cases = [
        (hello_frame("not json"), ErrorCode::MalformedHello),
        (hello_frame(r#"{"identity": 5}"#), ErrorCode::MalformedHello),
        (hello_frame(r#"{"capabilities": {"avp.rs": 1}}"#), ErrorCode::MalformedHello),
        (hello_frame(" ".repeat(MAX_HELLO_BYTES + 1)), ErrorCode::HandshakeTooLarge),
        (hello_frame(r#"{"avp_version": "1.0.0"}"#), ErrorCode::UnsupportedVersion),
        (hello_frame(r#"{"avp_version": ""}"#), ErrorCode::UnsupportedVersion),
        (Frame::default(), ErrorCode::UnexpectedFrame),
        (json_mode_missing, ErrorCode::UnexpectedFrame),
    ];
    for (frame, code) in cases {
        for mut negotiator in [server(now), client(now)] {
            while negotiator.poll_transmit().is_some() {}
            negotiator.handle_frame(frame.clone(), now);
            assert_eq!(failure(&mut negotiator).code(), code);
            assert_eq!(told(&mut negotiator), Some(code));
        }
    }
}

// spec: handshake 4.7
#[test]
fn an_answer_that_names_no_session_is_malformed() {
    let now = Instant::now();
    for id in ["", "a b", "\u{e9}"] {
        let mut client = client(now);
        let mut frame = hello_frame("{}");
        frame.metadata.session_id = id.into();
        client.handle_frame(frame, now);
        assert_eq!(failure(&mut client), HandshakeError::SessionId);
    }
}

// spec: handshake 4.11, limits 7.2
#[test]
fn silence_ends_with_the_deadline_and_is_told() {
    let now = Instant::now();
    for mut negotiator in [client(now), server(now)] {
        while negotiator.poll_transmit().is_some() {}
        let deadline = negotiator.poll_timeout().unwrap();
        assert_eq!(deadline, now + Duration::from_secs(10));
        negotiator.handle_timeout(deadline - Duration::from_nanos(1));
        assert_eq!(negotiator.poll(), None);
        negotiator.handle_timeout(deadline);
        assert_eq!(failure(&mut negotiator), HandshakeError::Timeout { seconds: 10 });
        assert_eq!(told(&mut negotiator), Some(ErrorCode::HandshakeTimeout));
    }
}

// spec: handshake 4.11
#[test]
fn a_hello_after_the_deadline_is_too_late() {
    let now = Instant::now();
    let mut server = server(now);
    server.handle_frame(hello_frame("{}"), now + Duration::from_secs(10));
    assert_eq!(failure(&mut server).code(), ErrorCode::HandshakeTimeout);
}

// spec: handshake 4.9
#[test]
fn a_refusal_is_heard_and_not_answered() {
    let now = Instant::now();
    let (mut client, mut server) = (client(now), server(now));
    server.handle_frame(Frame::default(), now);
    client.poll_transmit();
    client.handle_frame(wire(server.poll_transmit().unwrap()), now);
    let error = failure(&mut client);
    assert!(matches!(error, HandshakeError::Rejected { code: Some(ErrorCode::UnexpectedFrame), .. }));
    assert_eq!(error.code(), ErrorCode::UnexpectedFrame);
    assert_eq!(client.poll_transmit(), None);
}

// spec: handshake 4.8
#[test]
fn a_connection_that_ends_is_not_written_to() {
    let now = Instant::now();
    let mut server = server(now);
    server.handle_closed(now);
    assert_eq!(failure(&mut server).fault(), Fault::Io);
    assert_eq!(server.poll_transmit(), None);
}

// spec: handshake 3.2
#[test]
fn a_map_is_asked_for_with_the_full_hashes() {
    let now = Instant::now();
    let hash = |c: &str| c.repeat(64);
    let model = |family: &str, c: &str| ModelIdentity {
        model_family: family.into(),
        model_hash: hash(c),
        ..ModelIdentity::default()
    };
    let (source, target) = (hash("1"), hash("2"));
    let mut ours = NegotiatorConfig::new(Hello::new("a", model("x", "1")), PeerId::new("p"));
    ours.maps = Some(std::sync::Arc::new(move |s: &str, t: &str| s == source && t == target));
    let theirs = NegotiatorConfig::new(Hello::new("b", model("y", "2")), PeerId::new("p"));
    let client = Negotiator::client(ours, now).unwrap();
    let server = Negotiator::server(theirs, SessionId::from_random([1; 16]), now).unwrap();
    let (a, b) = shake(client, server, now);
    assert_eq!(a.resolution().map_id, "1111111111111111_2222222222222222");
    assert_eq!(b.resolution().path, ResolutionPath::JsonFallback);
}

proptest! {
    #[test]
    fn whatever_happens_there_is_one_end_by_the_deadline(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        crate::fuzzing::negotiator(&bytes);
    }
}
