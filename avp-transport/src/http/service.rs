//! What an application gives an HTTP listener, and what it is told of who asks.

use std::fmt;

use avp_handshake::{Hello, PeerId, TextMessage};
use avp_wire::{EncodedFrame, Frame, FrameHead, TransmitResponse};
use serde_json::{Map, Value};

use super::HttpRefusal;
use crate::connection::Peer;
use crate::link::BoxFuture;

/// Answers requests. [`HttpAgent`](super::HttpAgent) implements it; implement it yourself to keep sessions elsewhere.
///
/// The caller has been authorized before. A future is dropped when its client goes away.
pub trait HttpService: Send + Sync + fmt::Debug {
    /// Answers a hello.
    fn handshake<'a>(
        &'a self,
        caller: &'a HttpCaller,
        hello: Hello,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>>;

    /// Judges a frame by its head, before its payload is received.
    ///
    /// # Errors
    /// The refusal that the client gets.
    fn judge(&self, caller: &HttpCaller, head: &FrameHead) -> Result<(), HttpRefusal> {
        let _ = (caller, head);
        Ok(())
    }

    /// Takes a frame whose head has passed.
    fn transmit<'a>(
        &'a self,
        caller: &'a HttpCaller,
        frame: Frame,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>>;

    /// A caller without credentials has gone: nobody can act as `caller` any more.
    fn left(&self, caller: &PeerId) {
        let _ = caller;
    }

    /// Whether there is somebody for text messages; otherwise they are answered with 501, unread.
    fn takes_text(&self) -> bool {
        true
    }

    /// Takes a text message.
    fn text<'a>(
        &'a self,
        caller: &'a HttpCaller,
        message: TextMessage,
    ) -> BoxFuture<'a, Result<HttpReply, HttpRefusal>>;
}

/// Who makes a request.
#[derive(Clone, Debug)]
pub struct HttpCaller {
    pub(super) peer: Peer,
    pub(super) peer_id: PeerId,
    pub(super) agent_id: Option<String>,
}

impl HttpCaller {
    /// Where it is, and who, as far as that is proven.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Who its sessions belong to: its token or certificate, or else this one HTTP connection.
    #[must_use]
    pub fn peer_id(&self) -> &PeerId {
        &self.peer_id
    }

    /// What it calls itself (`AVP-Agent-ID`), without proof.
    #[must_use]
    pub fn agent_id(&self) -> Option<&str> {
        self.agent_id.as_deref()
    }
}

/// The answer to a request that was served.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum HttpReply {
    /// Fields of a JSON object; `success` is added as true where it is missing.
    Json(Map<String, Value>),
    /// A frame. It reaches clients that accept `application/avp+binary`; others get 406.
    Frame(EncodedFrame),
}

impl Default for HttpReply {
    fn default() -> Self {
        Self::Json(Map::new())
    }
}

impl From<TransmitResponse> for HttpReply {
    fn from(response: TransmitResponse) -> Self {
        let mut fields = Map::from_iter([("success".to_owned(), Value::from(response.success))]);
        fields.extend(response.message.map(|text| ("message".to_owned(), text.into())));
        fields.extend(response.request_id.map(|text| ("request_id".to_owned(), text.into())));
        if !response.extra.is_empty() {
            let extra = response.extra.into_iter().map(|(key, value)| (key, Value::from(value))).collect();
            fields.insert("extra".to_owned(), Value::Object(extra));
        }
        Self::Json(fields)
    }
}

impl From<TextMessage> for HttpReply {
    fn from(message: TextMessage) -> Self {
        match serde_json::from_str(&message.to_json()) {
            Ok(Value::Object(fields)) => Self::Json(fields),
            _ => Self::default(),
        }
    }
}

/// The text of a JSON answer, `success` first as the SDK writes it.
pub(super) fn json_text(mut fields: Map<String, Value>) -> String {
    let success = fields.remove("success").unwrap_or(Value::Bool(true));
    let mut text = format!(r#"{{"success":{success}"#);
    for (key, value) in &fields {
        text.push_str(&format!(",{}:{value}", Value::from(key.as_str())));
    }
    text.push('}');
    text
}
