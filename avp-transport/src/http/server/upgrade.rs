//! From a request to a connection: `GET /avp/v2/connect` with `Upgrade: avp/1`.

use std::sync::Arc;

use ::http::header::{CONNECTION, UPGRADE};
use avp_wire::ErrorCode;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc::error::TrySendError;

use super::super::body::OutBody;
use super::super::io::{Link, Socket};
use super::super::{HttpRefusal, UPGRADE as AVP};
use super::connection::Client;
use super::respond;
use crate::connection::Peer;
use crate::telemetry::Side;

/// Answers 101 and hands the connection to whoever accepts.
pub(super) fn answer<S: Socket>(
    client: &Arc<Client>,
    mut request: Request<Incoming>,
    identity: Option<String>,
) -> Response<OutBody> {
    if !is_asked_by(&request) {
        let wrong = HttpRefusal::with_status(426, "ask for `Upgrade: avp/1` over HTTP/1.1");
        return respond::upgrade(respond::refusal(&wrong), StatusCode::UPGRADE_REQUIRED);
    }
    let room = match client.shared.upgraded.clone().try_reserve_owned() {
        Ok(room) => room,
        Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {
            let busy = HttpRefusal::new(ErrorCode::Busy, "too many connections wait to be accepted");
            return respond::refusal(&busy);
        }
    };
    // The place among half-open connections goes with the connection, until it has negotiated.
    let place = client.establish();
    let upgrading = hyper::upgrade::on(&mut request);
    let (shared, peer) = (Arc::clone(&client.shared), client.peer.clone());
    tokio::spawn(async move {
        let io = match upgrading.await {
            Ok(upgraded) => upgraded.downcast::<TokioIo<Link<S>>>(),
            Err(error) => return tracing::debug!(%peer, %error, "an upgrade failed"),
        };
        let Ok(parts) = io else {
            return tracing::error!(%peer, "an upgraded connection is of another type");
        };
        // hyper has taken what was read ahead of it: what is left then is in its own buffer.
        let (stream, ahead) = parts.io.into_inner().into_parts();
        let ahead = if ahead.is_empty() { parts.read_buf } else { [parts.read_buf, ahead].concat().into() };
        let connection = stream.into_connection(ahead, Peer::clone(&peer), &shared.options, Side::Server);
        let connection = identity.into_iter().fold(connection, |connection, name| connection.admit(name));
        room.send(place.into_iter().fold(connection, |connection, place| connection.with_half_open(place)));
    });
    respond::upgrade(Response::new(OutBody::default()), StatusCode::SWITCHING_PROTOCOLS)
}

/// Whether a request asks for an upgrade to this protocol, and can.
pub(super) fn is_asked_by(request: &Request<Incoming>) -> bool {
    request.version() == Version::HTTP_11 && *request.method() == Method::GET && asks(request.headers())
}

fn asks(headers: &HeaderMap) -> bool {
    let names = |name, word: &str| {
        let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(word))
    };
    names(CONNECTION, "upgrade") && names(UPGRADE, AVP)
}
