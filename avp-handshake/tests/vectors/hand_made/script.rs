//! Handshakes by script: two negotiators, the clock of the script, and the frames between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use avp_handshake::json::Json;
use avp_handshake::{
    Established, Event, Hello, MAX_HELLO_BYTES, Negotiator, NegotiatorConfig, PeerId, Reject, SessionId,
};
use avp_wire::ext::FrameKind;
use avp_wire::{Bytes, DecodeError, EncodeOptions, ErrorCode, Frame, Limits};
use serde_json::{Value, json};

use super::{maps, millis, policy};
use crate::suite::{bytes, text};

struct Side {
    negotiator: Negotiator,
    /// What it sent and nobody took yet.
    sent: VecDeque<Bytes>,
    end: Option<Event>,
}

pub(super) fn play(input: &Value) -> Result<Value, ErrorCode> {
    let begin = Instant::now();
    let mut sides: BTreeMap<&str, Side> = BTreeMap::new();
    let mut steps = Vec::new();
    for step in input["steps"].as_array().expect("steps") {
        let (now, to) = (begin + millis(&step["at"]), text(&step["to"]));
        if step.get("start").is_some() {
            sides.insert(to, Side::start(to, &input[to], now)?);
        } else if let Some(what) = step.get("receive") {
            let sender = what.as_str().and_then(|name| sides.get_mut(name));
            let message = match sender {
                Some(sender) => sender.sent.pop_front().expect("a frame was sent"),
                None => bytes(what).into(),
            };
            sides.get_mut(to).expect("a side that has started").receive(message, now);
        } else if step.get("timeout").is_some() {
            sides.get_mut(to).expect("a side that has started").negotiator.handle_timeout(now);
        } else {
            sides.get_mut(to).expect("a side that has started").negotiator.handle_closed(now);
        }
        steps.push(sides.get_mut(to).expect("a side that has started").look());
    }
    Ok(json!({"steps": steps}))
}

impl Side {
    fn start(role: &str, fields: &Value, now: Instant) -> Result<Self, ErrorCode> {
        let hello = Hello::from_json(Json::from(&fields["hello"]).to_text().as_bytes());
        // A hello that is too long to be read is too long to be sent.
        let hello = hello.map_err(|_| ErrorCode::InvalidArgument)?;
        let mut config = NegotiatorConfig::new(hello, PeerId::new("peer"));
        let maps = maps(fields);
        config.maps = Some(Arc::new(move |source: &str, target: &str| {
            maps.iter().any(|(s, t)| s == source && t == target)
        }));
        config.policy = policy(fields);
        if let Some(timeout) = fields.get("timeout_ms") {
            config.timeout = millis(timeout);
        }
        let negotiator = if role == "client" {
            Negotiator::client(config, now)
        } else {
            let id = hex::decode(text(&fields["session_id"])).expect("hex").try_into().expect("16 bytes");
            Negotiator::server(config, SessionId::from_random(id), now)
        };
        let negotiator = negotiator.map_err(|error| error.code())?;
        Ok(Self { negotiator, sent: VecDeque::new(), end: None })
    }

    /// As a transport does it: what is too long for a hello is not read.
    fn receive(&mut self, message: Bytes, now: Instant) {
        let (negotiator, len) = (&mut self.negotiator, message.len());
        if len > MAX_HELLO_BYTES {
            return negotiator.handle_too_large(MAX_HELLO_BYTES, len, now);
        }
        let mut limits = Limits::default();
        limits.memory_budget = u64::from(limits.max_handshake_len);
        match Frame::decode(message, &limits) {
            Ok(frame) => negotiator.handle_frame(frame, now),
            Err(DecodeError::MemoryBudget { .. }) => {
                negotiator.handle_too_large(MAX_HELLO_BYTES, usize::MAX, now);
            }
            Err(error) => negotiator.handle_decode_error(error, now),
        }
    }

    /// What it emits, and where it stands.
    fn look(&mut self) -> Value {
        let mut emit = Vec::new();
        while let Some(frame) = self.negotiator.poll_transmit() {
            emit.push(emission(&frame));
            let encoded = frame.encode(&EncodeOptions::default()).expect("a small frame");
            self.sent.push_back(encoded.to_vec().into());
        }
        let event = self.negotiator.poll();
        let is_new = event.is_some();
        self.end = event.or(self.end.take());
        match &self.end {
            None => json!({"emit": emit, "state": "waiting", "code": null}),
            Some(Event::Failed(error)) => {
                json!({"emit": emit, "state": "failed", "code": error.code().as_str()})
            }
            Some(Event::Established(established)) => {
                let session = is_new.then(|| session(established));
                json!({"emit": emit, "state": "established", "code": null, "session": session})
            }
        }
    }
}

fn emission(frame: &Frame) -> Value {
    let kind = frame.kind().expect("a kind that is known");
    let text = String::from_utf8_lossy(&frame.payload);
    let refusal = Reject::from_frame(frame);
    json!({
        "kind": kind.map(FrameKind::as_str),
        "session_id": frame.metadata.session_id,
        "source_agent_id": frame.metadata.source_agent_id,
        "model_id": frame.metadata.model_id,
        "mode": frame.metadata.mode.number(),
        "text": (kind == Some(FrameKind::Hello)).then_some(text),
        "success": refusal.as_ref().map(|_| false),
        "code": refusal.and_then(|refusal| refusal.code).map(ErrorCode::as_str),
    })
}

fn session(established: &Established) -> Value {
    let resolution = established.resolution();
    json!({
        "session_id": established.session.id.as_str(),
        "remote_agent": established.session.remote_agent,
        "mode": resolution.mode.number(),
        "avp_map_id": resolution.map_id,
        "resolution_path": resolution.path.as_str(),
        "verification": resolution.verification.as_str(),
        "extension": established.capabilities.is_some(),
    })
}
