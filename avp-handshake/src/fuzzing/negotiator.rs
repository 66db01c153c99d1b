//! One negotiator, and a peer that sends anything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use avp_wire::ext::{self, FrameKind};
use avp_wire::{DecodeError, Frame, Metadata, Mode};

use crate::{Event, Hello, ModelIdentity, Negotiator, NegotiatorConfig, PeerId, SessionId};

/// The bytes are a sequence of operations on one negotiator: it ends by its deadline, with one event, sends at most
/// its hello and one more frame, and never changes after the end.
///
/// # Panics
/// Where that does not hold.
pub fn negotiator(bytes: &[u8]) {
    let (&role, mut rest) = bytes.split_first().unwrap_or((&0, &[]));
    let start = Instant::now();
    let mut now = start;
    let mut subject = new(role, start);
    let (mut events, mut frames) = (0, 0);
    while let Some((&op, tail)) = rest.split_first() {
        let (len, tail) = match (op & 7, tail.split_first()) {
            // Room for a hello.
            (7, Some((&len, tail))) => (len, tail),
            _ => (op >> 4, tail),
        };
        let argument = tail.get(..tail.len().min(usize::from(len))).unwrap_or_default();
        rest = tail.get(argument.len()..).unwrap_or_default();
        let over = subject.poll_timeout().is_none();
        match op & 7 {
            0 | 7 => subject.handle_frame(frame(argument), now),
            1 => subject.handle_timeout(now),
            2 => now += Duration::from_millis(u64::from(op) * 8),
            3 => subject.handle_decode_error(DecodeError::ShapeOverflow, now),
            4 if op > 0xf0 => subject.handle_closed(now),
            4 if op > 0xe0 => subject.handle_too_large(1 << 16, usize::MAX, now),
            5 => events += count(subject.poll()),
            6 => frames += usize::from(subject.poll_transmit().is_some()),
            _ => assert!(subject.poll_timeout().is_none_or(|deadline| deadline > start)),
        }
        assert!(!over || subject.poll_timeout().is_none(), "a handshake that ended began again");
    }
    if let Some(deadline) = subject.poll_timeout() {
        subject.handle_timeout(deadline.max(now));
    }
    assert_eq!(subject.poll_timeout(), None, "the handshake goes on after its deadline");
    events += count(subject.poll()) + count(subject.poll());
    assert_eq!(events, 1, "a handshake ends once");
    while subject.poll_transmit().is_some() {
        frames += 1;
    }
    assert!(frames <= 2, "{frames} frames for one handshake");
}

fn new(role: u8, now: Instant) -> Negotiator {
    let identity = ModelIdentity { model_hash: "h".to_owned(), ..ModelIdentity::default() };
    let config = NegotiatorConfig::new(Hello::new("fuzz", identity), PeerId::new("peer"));
    let made = match role % 2 {
        0 => Negotiator::client(config, now),
        _ => Negotiator::server(config, SessionId::from_random([role; 16]), now),
    };
    match made {
        Ok(negotiator) => negotiator,
        Err(error) => panic!("a sound config was refused: {error}"),
    }
}

/// A frame that is close enough to a hello to get far.
fn frame(bytes: &[u8]) -> Frame {
    let (&shape, payload) = bytes.split_first().unwrap_or((&0, &[]));
    let kinds = FrameKind::ALL.into_iter().chain([FrameKind::Hello, FrameKind::Hello]);
    let kind = kinds.cycle().nth(usize::from(shape)).map_or("", |kind| kind.as_str());
    let metadata = Metadata {
        session_id: if shape > 200 { String::new() } else { "s".to_owned() },
        mode: if shape > 230 { Mode::Latent } else { Mode::Json },
        extra: BTreeMap::from([(ext::KIND.to_owned(), kind.to_owned())]),
        ..Metadata::default()
    };
    if payload.is_empty() { Frame::new(metadata, &b"{}"[..]) } else { Frame::new(metadata, payload.to_vec()) }
}

fn count(event: Option<Event>) -> usize {
    usize::from(event.is_some())
}
