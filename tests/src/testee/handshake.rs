//! Handshakes by script: two negotiators, a clock that the request sets, and the frames between them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use avp_handshake::json::Json;
use avp_handshake::{
    Established, Event, Hello, MAX_HELLO_BYTES, Negotiator, NegotiatorConfig, PeerId, Reject, SessionId,
};
use avp_wire::ext::FrameKind;
use avp_wire::{DecodeError, EncodeOptions, Frame, Limits};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::Answer;
use super::error::Failure;
use super::form::read;
use super::resolve::Policy;

#[derive(Deserialize)]
struct Script {
    #[serde(default)]
    client: Option<SideFields>,
    #[serde(default)]
    server: Option<SideFields>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct SideFields {
    #[serde(default)]
    hello: Map<String, Value>,
    #[serde(default)]
    maps: Vec<(String, String)>,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    timeout_ms: Option<u64>,
    /// Of a server: the session that it will name.
    #[serde(default)]
    session_id: Option<String>,
}

#[derive(Deserialize)]
struct Step {
    at: u64,
    to: Role,
    #[serde(flatten)]
    what: What,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Client,
    Server,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Start(IgnoredAny),
    Receive(String),
    Timeout(IgnoredAny),
    Closed(IgnoredAny),
}

pub(super) fn play(fields: Value) -> Answer {
    let Script { client, server, steps } = read(fields)?;
    let mut sides = [Side::new(Role::Client, client), Side::new(Role::Server, server)];
    let start = Instant::now();
    let mut shown = Vec::new();
    for Step { at, to, what } in steps {
        let now = start + Duration::from_millis(at);
        let received = match &what {
            What::Receive(from) => Some(received(&mut sides, from)?),
            _ => None,
        };
        let side = sides.iter_mut().find(|side| side.role == to).context("both sides are there")?;
        match (what, received) {
            (What::Start(_), _) => side.start(now)?,
            (What::Receive(_), Some(message)) => side.receive(message, now)?,
            (What::Timeout(_), _) => side.negotiator()?.handle_timeout(now),
            _ => side.negotiator()?.handle_closed(now),
        }
        shown.push(side.shown()?);
    }
    Ok(json!({ "steps": shown }))
}

/// The bytes that a step delivers: given, or the oldest of a side that were not delivered yet.
fn received(sides: &mut [Side; 2], from: &str) -> Result<Bytes, Failure> {
    let [client, server] = sides;
    let sender = match from {
        "client" => client,
        "server" => server,
        given => return Ok(hex::decode(given).context("a frame")?.into()),
    };
    Ok(sender.sent.pop_front().with_context(|| format!("the {from} has sent nothing more"))?)
}

struct Side {
    role: Role,
    fields: Option<SideFields>,
    negotiator: Option<Negotiator>,
    /// Frames that were emitted and not yet delivered.
    sent: VecDeque<Bytes>,
    outcome: Option<Event>,
}

impl Side {
    fn new(role: Role, fields: Option<SideFields>) -> Self {
        Self { role, fields, negotiator: None, sent: VecDeque::new(), outcome: None }
    }

    fn negotiator(&mut self) -> Result<&mut Negotiator, Failure> {
        Ok(self.negotiator.as_mut().context("a step of a side that has not started")?)
    }

    fn start(&mut self, now: Instant) -> Result<(), Failure> {
        let fields = self.fields.take().context("a side starts once, and only where it is described")?;
        let hello = Json::from(&Value::Object(fields.hello)).to_text();
        let hello = Hello::from_json(hello.as_bytes()).map_err(Failure::invalid)?;
        let mut config = NegotiatorConfig::new(hello, PeerId::new("peer"));
        let maps = fields.maps;
        config.maps = Some(Arc::new(move |source: &str, target: &str| {
            maps.iter().any(|(s, t)| s == source && t == target)
        }));
        config.policy = fields.policy.into();
        if let Some(millis) = fields.timeout_ms {
            config.timeout = Duration::from_millis(millis);
        }
        let negotiator = match self.role {
            Role::Client => Negotiator::client(config, now),
            Role::Server => {
                let mut random = [0; 16];
                let id = fields.session_id.context("a server's session_id")?;
                hex::decode_to_slice(id, &mut random).context("a session id of 32 hex digits")?;
                Negotiator::server(config, SessionId::from_random(random), now)
            }
        };
        self.negotiator = Some(negotiator.map_err(Failure::invalid)?);
        Ok(())
    }

    /// As a transport does it: what is too long for a hello is not read.
    fn receive(&mut self, message: Bytes, now: Instant) -> Result<(), Failure> {
        let negotiator = self.negotiator()?;
        let len = message.len();
        if len > MAX_HELLO_BYTES {
            negotiator.handle_too_large(MAX_HELLO_BYTES, len, now);
            return Ok(());
        }
        let mut limits = Limits::default();
        limits.memory_budget = u64::from(limits.max_handshake_len);
        match Frame::decode(message, &limits) {
            Ok(frame) => negotiator.handle_frame(frame, now),
            Err(DecodeError::MemoryBudget { needed, .. }) => {
                negotiator.handle_too_large(
                    MAX_HELLO_BYTES,
                    usize::try_from(needed).unwrap_or(usize::MAX),
                    now,
                );
            }
            Err(error) => negotiator.handle_decode_error(error, now),
        }
        Ok(())
    }

    /// What the side emitted in a step, and where it stands after it.
    fn shown(&mut self) -> Answer {
        let negotiator = self.negotiator()?;
        let event = negotiator.poll();
        let frames: Vec<Frame> = std::iter::from_fn(|| negotiator.poll_transmit()).collect();
        for frame in &frames {
            self.sent.push_back(frame.encode(&EncodeOptions::default())?.to_vec().into());
        }
        let emit: Vec<Value> = frames.iter().map(emitted).collect();
        let is_new = event.is_some();
        self.outcome = event.or(self.outcome.take());
        Ok(match &self.outcome {
            None => json!({ "emit": emit, "state": "waiting", "code": null }),
            Some(Event::Failed(error)) => {
                json!({ "emit": emit, "state": "failed", "code": error.code().as_str() })
            }
            Some(Event::Established(established)) => {
                let mut shown = json!({ "emit": emit, "state": "established", "code": null });
                if is_new {
                    shown["session"] = session(established);
                }
                shown
            }
        })
    }
}

fn emitted(frame: &Frame) -> Value {
    let kind = frame.kind().ok().flatten();
    let refusal = Reject::from_frame(frame);
    let text = (kind == Some(FrameKind::Hello)).then(|| String::from_utf8_lossy(&frame.payload));
    json!({
        "kind": kind.map(FrameKind::as_str),
        "session_id": frame.metadata.session_id,
        "source_agent_id": frame.metadata.source_agent_id,
        "model_id": frame.metadata.model_id,
        "mode": frame.metadata.mode.number(),
        "text": text,
        "success": refusal.as_ref().map(|_| false),
        "code": refusal.and_then(|refusal| refusal.code).map(|code| code.as_str()),
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
