//! What comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, RETRY_AFTER};
use avp_handshake::TextMessage;
use avp_wire::{Frame, TransmitResponse};
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;

use super::super::body::BodyReader;
use super::super::{FRAME_TYPE, HttpRefusal, MAX_JSON};
use super::pool::{Lease, Pool};
use crate::budget::MemoryBudget;
use crate::connection::Peer;
use crate::error::{Deadline, Incompatible, PeerFault, TransportError, token_hint};
use crate::intake::Intake;
use crate::link::{FrameReceiver, Result};
use crate::options::Options;
use crate::patience::Patience;
use crate::stream::StreamReceiver;
use crate::telemetry::{Direction, Meter};

/// Longest refusal that is read.
const MAX_REFUSAL: usize = 64 << 10;

/// The answer to a frame or a text.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HttpAnswer {
    /// A JSON object, with `success` and whatever the application there has added.
    Json(Map<String, Value>),
    /// A frame.
    Frame(Frame),
}

impl HttpAnswer {
    /// Reads it as a [`TransmitResponse`]; `None` for a frame. What has no place in one is left out.
    #[must_use]
    pub fn transmit_response(&self) -> Option<TransmitResponse> {
        let Self::Json(fields) = self else { return None };
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let extra = fields.get("extra").and_then(Value::as_object).into_iter().flatten();
        Some(TransmitResponse {
            success: fields.get("success").and_then(Value::as_bool).unwrap_or_default(),
            message: text("message"),
            request_id: text("request_id"),
            extra: extra
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect::<BTreeMap<_, _>>(),
        })
    }

    /// Reads it as a text message; `None` where it is none.
    #[must_use]
    pub fn text_message(&self) -> Option<TextMessage> {
        let Self::Json(fields) = self else { return None };
        fields.contains_key("content").then_some(())?;
        TextMessage::from_json(Value::Object(fields.clone()).to_string().as_bytes()).ok()
    }
}

/// An answer whose body is still to come.
pub(super) struct Arriving {
    pub(super) peer: Peer,
    status: StatusCode,
    is_frame: bool,
    retry_after: Option<Duration>,
    body: BodyReader,
    lease: Lease,
    meter: Meter,
}

impl Arriving {
    pub(super) fn new(response: Response<Incoming>, lease: Lease, meter: Meter) -> Self {
        let (head, body) = response.into_parts();
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let kind = text(CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
        Self {
            peer: lease.peer.clone(),
            status: head.status,
            is_frame: kind.eq_ignore_ascii_case(FRAME_TYPE),
            retry_after: text(RETRY_AFTER).and_then(|value| value.parse().ok()).map(Duration::from_secs),
            body: BodyReader::new(body),
            lease,
            meter,
        }
    }

    /// The answer, whatever it is.
    pub(super) async fn whole(
        self,
        options: &Options,
        memory: &MemoryBudget,
        pool: &Arc<Pool>,
    ) -> Result<HttpAnswer> {
        if self.status.is_success() && self.is_frame {
            return self.frame(options, memory, pool).await.map(HttpAnswer::Frame);
        }
        let (fields, _) = self.json(options, pool).await?;
        Ok(HttpAnswer::Json(fields))
    }

    /// A JSON object, and its text.
    pub(super) async fn json(
        mut self,
        options: &Options,
        pool: &Arc<Pool>,
    ) -> Result<(Map<String, Value>, Vec<u8>)> {
        let limit = if self.status.is_success() { MAX_JSON } else { MAX_REFUSAL };
        let text = self.text(options, limit).await?;
        let (status, retry_after, peer) = (self.status, self.retry_after, self.peer.to_string());
        pool.give_back(self.lease);
        let parsed = serde_json::from_slice::<Value>(&text);
        if !status.is_success() {
            let is_avp = parsed.is_ok_and(|value| value.get("success").or(value.get("detail")).is_some());
            let mut refusal = HttpRefusal::read(status.as_u16(), retry_after, &text);
            if status == StatusCode::UNAUTHORIZED && refusal.code.is_none() {
                refusal.message = format!("{} ({})", token_hint(options.token.is_some()), refusal.message);
            }
            // A server of another kind does not know the path; a proxy in between has errors of its own.
            let is_elsewhere = !is_avp && matches!(status.as_u16(), 300..=399 | 404 | 405);
            return Err(match is_elsewhere {
                true => PeerFault::Answer { peer, what: refusal.to_string() }.into(),
                false => Incompatible::Refused { peer, refusal }.into(),
            });
        }
        match parsed {
            Ok(Value::Object(fields)) => Ok((fields, text)),
            _ => Err(PeerFault::Answer { peer, what: format!("{status} without a JSON object") }.into()),
        }
    }

    async fn frame(self, options: &Options, memory: &MemoryBudget, pool: &Arc<Pool>) -> Result<Frame> {
        let intake = Intake::within(memory.clone(), self.peer.to_string(), options, self.meter.clone());
        let mut receiver = StreamReceiver::with_intake(self.body, intake, options);
        let answer = |what: &str| PeerFault::Answer { peer: self.peer.to_string(), what: what.to_owned() };
        let frame = receiver.recv().await?.ok_or_else(|| answer("an empty frame"))?;
        if receiver.head().await?.is_some() {
            return Err(answer("more than one frame").into());
        }
        pool.give_back(self.lease);
        Ok(frame)
    }

    async fn text(&mut self, options: &Options, limit: usize) -> Result<Vec<u8>> {
        let peer = self.peer.to_string();
        let mut patience = Patience::new(&options.limits, self.meter.clone(), Direction::Received);
        let expected = self.body.announced().unwrap_or_default();
        let mut text = Vec::new();
        loop {
            match patience.wait(self.body.read_buf(&mut text)).await {
                Some(Ok(0)) => return Ok(text),
                Some(Ok(bytes)) => patience.moved(bytes),
                Some(Err(source)) => return Err(TransportError::broken(peer, source)),
                None => {
                    return Err(patience.exhausted(&peer, Deadline::Receive, text.len(), expected).into());
                }
            }
            if text.len() > limit {
                return Err(PeerFault::Answer { peer, what: format!("more than {limit} bytes") }.into());
            }
        }
    }
}
