//! Hellos, text messages and `TransmitResponse`.

use std::collections::BTreeMap;

use avp_handshake::{Hello, TextMessage};
use avp_wire::{Limits, TransmitResponse};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::error::Failure;
use super::form::{Hex, read};

/// Text as a string, or as bytes where it is no UTF-8.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Input {
    Text(String),
    Hex(Hex),
}

impl Input {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Hex(Hex(bytes)) => bytes.to_vec(),
        }
    }
}

pub(super) fn hello(fields: Value) -> Answer {
    let input: Input = read(fields)?;
    Ok(json!({ "text": Hello::from_json(&input.bytes())?.to_json() }))
}

pub(super) fn text(fields: Value) -> Answer {
    let input: Input = read(fields)?;
    // What a session answers to a text that is none (docs/spec/http.md, 2.4).
    let message = TextMessage::from_json(&input.bytes()).map_err(Failure::invalid)?;
    Ok(json!({ "text": message.to_json() }))
}

#[derive(Deserialize)]
struct Payload {
    payload: Hex,
}

pub(super) fn decode_response(fields: Value) -> Answer {
    let Payload { payload: Hex(payload) } = read(fields)?;
    let response = TransmitResponse::decode(&payload, &Limits::default())?;
    Ok(json!({
        "success": response.success,
        "message": response.message,
        "request_id": response.request_id,
        "extra": response.extra,
    }))
}

#[derive(Deserialize)]
struct Response {
    success: bool,
    message: Option<String>,
    request_id: Option<String>,
    #[serde(default)]
    extra: BTreeMap<String, String>,
}

pub(super) fn encode_response(fields: Value) -> Answer {
    let Response { success, message, request_id, extra } = read(fields)?;
    let response = TransmitResponse { success, message, request_id, extra };
    Ok(json!({ "payload": hex::encode(response.to_vec()) }))
}
