//! Two negotiators, and a network between them that delays, loses, repeats, damages and closes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use avp_wire::{EncodeOptions, Frame, Limits};

use crate::fingerprint::Fingerprint;
use crate::{
    Capabilities, Established, Event, Hello, ModelIdentity, Negotiator, NegotiatorConfig, PeerId, SessionId,
    VerificationPolicy,
};

/// The bytes choose two agents and what the network does: each side ends once, by its deadline; where no frame was
/// damaged a client's session is also its server's, and both decided alike; where nothing was disturbed both agree.
///
/// # Panics
/// Where that does not hold.
pub fn pair(bytes: &[u8]) {
    let (choices, mut ops) = bytes.split_first_chunk().unwrap_or((&[0; 6], &[]));
    let mut network = Network::begin(*choices);
    while let Some((&op, rest)) = ops.split_first() {
        let (&argument, rest) = rest.split_first().unwrap_or((&0, &[]));
        ops = rest;
        network.step(op, argument);
    }
    network.end();
}

/// One side, and the frames on their way to it.
struct Side {
    negotiator: Negotiator,
    policy: VerificationPolicy,
    incoming: VecDeque<Vec<u8>>,
    event: Option<Event>,
}

struct Network {
    now: Instant,
    client: Side,
    server: Side,
    damaged: bool,
    disturbed: bool,
}

impl Network {
    fn begin(choices: [u8; 6]) -> Self {
        let now = Instant::now();
        let [client_model, server_model, client_hash, server_hash, client_rest, server_rest] = choices;
        let config = |name, model, hash, rest: u8| {
            let mut hello = Hello::new(name, identity(model, hash));
            let weights = Some(Fingerprint::from_bytes([rest & 1; 32])).filter(|_| rest & 2 != 0);
            if rest & 4 != 0 {
                Capabilities { weights, ..Capabilities::default() }.announce(&mut hello);
            }
            let policy = match rest & 8 {
                0 => VerificationPolicy::Allow,
                _ => VerificationPolicy::Require,
            };
            let timeout = Duration::from_millis(50 * u64::from(rest >> 4) + 50);
            NegotiatorConfig { policy, timeout, ..NegotiatorConfig::new(hello, PeerId::new("peer")) }
        };
        let client = config("client", client_model, client_hash, client_rest);
        let server = config("server", server_model, server_hash, server_rest);
        let policies = (client.policy, server.policy);
        let client = Negotiator::client(client, now);
        let server = Negotiator::server(server, SessionId::from_random([7; 16]), now);
        let (Ok(client), Ok(server)) = (client, server) else { panic!("a sound config was refused") };
        let side = |negotiator, policy| Side { negotiator, policy, incoming: VecDeque::new(), event: None };
        let (client, server) = (side(client, policies.0), side(server, policies.1));
        Self { now, client, server, damaged: false, disturbed: false }
    }

    fn step(&mut self, op: u8, argument: u8) {
        let here = if op & 1 == 0 { &mut self.client } else { &mut self.server };
        match (op >> 1) % 8 {
            0..3 => here.receive(self.now),
            3 => {
                self.now += Duration::from_millis(argument.into());
                self.disturbed = true;
            }
            4 => here.negotiator.handle_timeout(self.now),
            5 => here.incoming.extend(here.incoming.front().cloned()),
            6 if argument < 64 => {
                self.disturbed |= here.incoming.pop_front().is_some();
            }
            6 => {
                let frame = here.incoming.front_mut();
                let byte = frame.and_then(|frame| frame.get_mut(usize::from(argument) - 64));
                if let Some(byte) = byte {
                    *byte ^= op | 1;
                    (self.damaged, self.disturbed) = (true, true);
                }
            }
            _ if argument > 0xf0 => {
                here.negotiator.handle_closed(self.now);
                self.disturbed = true;
            }
            _ => {}
        }
        self.move_frames();
    }

    /// What a side has to send is on its way at once.
    fn move_frames(&mut self) {
        self.server.incoming.extend(self.client.outgoing());
        self.client.incoming.extend(self.server.outgoing());
    }

    fn end(mut self) {
        self.move_frames();
        while !(self.client.incoming.is_empty() && self.server.incoming.is_empty()) {
            self.server.receive(self.now);
            self.client.receive(self.now);
            self.move_frames();
        }
        for side in [&mut self.client, &mut self.server] {
            if let Some(deadline) = side.negotiator.poll_timeout() {
                assert!(self.disturbed, "a handshake hangs");
                side.negotiator.handle_timeout(deadline.max(self.now));
            }
        }
        self.move_frames();
        let (client, server) = (self.client.established(), self.server.established());
        if !self.disturbed {
            assert!(client.is_some() && server.is_some());
        }
        let (Some(client), false) = (client, self.damaged) else { return };
        let Some(server) = server else { panic!("a client has a session that its server does not have") };
        assert_eq!((client.remote.agent_id.as_str(), server.remote.agent_id.as_str()), ("server", "client"));
        assert_eq!(client.session.id, server.session.id);
        assert_eq!(client.resolution().verification, server.resolution().verification);
        if self.client.policy == self.server.policy {
            assert_eq!(client.resolution(), server.resolution());
        }
    }
}

impl Side {
    /// The next frame arrives, as its bytes decode.
    fn receive(&mut self, now: Instant) {
        let Some(wire) = self.incoming.pop_front() else { return };
        match Frame::decode(wire.into(), &Limits::default()) {
            Ok(frame) => self.negotiator.handle_frame(frame, now),
            Err(error) => self.negotiator.handle_decode_error(error, now),
        }
    }

    /// The frames that are to be sent; keeps the event.
    fn outgoing(&mut self) -> Vec<Vec<u8>> {
        while let Some(event) = self.negotiator.poll() {
            assert_eq!(self.event.replace(event), None, "a handshake ends once");
            assert_eq!(self.negotiator.poll_timeout(), None);
        }
        let frames = std::iter::from_fn(|| self.negotiator.poll_transmit());
        let encode = |frame: Frame| match frame.encode(&EncodeOptions::default()) {
            Ok(encoded) => encoded.to_vec(),
            Err(error) => panic!("no frame: {error}"),
        };
        frames.map(encode).collect()
    }

    /// The session, if there is one.
    fn established(&self) -> Option<&Established> {
        match self.event.as_ref() {
            Some(Event::Established(established)) => Some(established),
            Some(Event::Failed(error)) => {
                assert!(!error.to_string().is_empty() && !error.code().as_str().is_empty());
                None
            }
            None => panic!("the handshake goes on after its deadline"),
        }
    }
}

/// One of a few models, so that all rules fire.
fn identity(model: u8, hash: u8) -> ModelIdentity {
    let name = |choice: u8| match choice & 3 {
        0 => String::new(),
        1 => "a".to_owned(),
        2 => "b".to_owned(),
        _ => "0123456789abcdef-and-more".to_owned(),
    };
    ModelIdentity {
        model_family: name(model),
        model_id: "model".to_owned(),
        hidden_dim: u32::from(model >> 2 & 3),
        num_layers: u32::from(model >> 4 & 3),
        model_hash: name(hash),
        tokenizer_hash: name(hash >> 2),
        ..ModelIdentity::default()
    }
}
