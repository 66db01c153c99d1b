//! From a request to its answer: limits and credentials first, then what the path asks for.

use std::sync::Arc;

use ::http::header::{ACCEPT, AUTHORIZATION, CONNECTION, HeaderValue, ORIGIN};
use avp_handshake::{Hello, MAX_HELLO_BYTES, PeerId, TextMessage};
use avp_wire::ErrorCode;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};

use super::super::body::{BodyReader, OutBody};
use super::super::io::Socket;
use super::super::{
    CONNECT, FRAME_TYPE, HANDSHAKE, HEALTH, HttpCaller, HttpRefusal, HttpReply, HttpService, JSON_TYPE,
    MAX_JSON, METRICS, TEXT, TRANSMIT,
};
use super::connection::{Busy, Client};
use super::{request, respond, upgrade};
use crate::auth::Unauthorized;
use crate::error::token_hint;
use crate::link::Result;
use crate::telemetry::{Direction, Side};

/// Longest `AVP-Agent-ID` that is kept, in bytes.
const MAX_AGENT: usize = 256;
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers one request.
pub(super) async fn answer<S: Socket>(client: Arc<Client>, request: Request<Incoming>) -> Response<OutBody> {
    let _busy = Busy::new(&client);
    let version = request.version();
    let mut response = judge::<S>(Arc::clone(&client), request).await;
    if let Some(code) = response.extensions().get::<ErrorCode>() {
        client.shared.meter.reject(Direction::Sent, code.as_str());
    }
    if client.is_dismissed() && version <= Version::HTTP_11 {
        // Requests that came along with this one are not looked at.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What is allowed to whom.
async fn judge<S: Socket>(client: Arc<Client>, request: Request<Incoming>) -> Response<OutBody> {
    if client.presence.crowded {
        client.dismiss();
        return refuse(
            request,
            &HttpRefusal::new(ErrorCode::BudgetSpent, "too many connections of this peer"),
        );
    }
    // Where a connection begins with its upgrade, what limits connections is enough, as over TCP; but not guesses of tokens.
    let is_exempt = client.is_first_request()
        && request.uri().path() == CONNECT
        && upgrade::is_asked_by(&request)
        && !request.headers().contains_key(AUTHORIZATION);
    if !is_exempt && !client.presence.request() {
        return refuse(request, &HttpRefusal::new(ErrorCode::BudgetSpent, "too many requests of this peer"));
    }
    let Some(endpoint) = Endpoint::of(request.uri().path(), &client) else {
        return refuse(request, &HttpRefusal::with_status(404, "Not Found"));
    };
    let method = endpoint.method();
    if request.method() != method {
        linger(request);
        return respond::wrong_method(if method == Method::POST { "POST" } else { "GET" });
    }
    if let Endpoint::Health = endpoint {
        // Where credentials are asked for, who shows none stays among those that have not been let in.
        if client.shared.options.authorize.is_none() {
            drop(client.establish());
        }
        return respond::json(StatusCode::OK, r#"{"status":"ok"}"#);
    }
    let identity = match credentials(&client, request.headers(), matches!(endpoint, Endpoint::Connect)) {
        Ok(identity) => identity,
        Err(refusal) => return refuse_and_count(&client, request, &refusal),
    };
    if identity.is_none() && request.headers().contains_key(ORIGIN) {
        // Any page that somebody opens could use the agent on their machine, which asks for no credentials.
        return refuse(request, &HttpRefusal::with_status(403, "web pages have to show credentials"));
    }
    if let Endpoint::Connect = endpoint {
        return upgrade::answer::<S>(&client, request, identity);
    }
    drop(client.establish());
    if let Endpoint::Metrics = endpoint {
        let text = client.shared.http.metrics.as_ref().map(super::super::MetricsText::render);
        return respond::with_type(StatusCode::OK, METRICS_TYPE, OutBody::from(text.unwrap_or_default()));
    }
    let Some(service) = client.shared.http.service.clone() else {
        return refuse(
            request,
            &HttpRefusal::new(ErrorCode::NoHandler, "this agent takes connections only (/avp/v2/connect)"),
        );
    };
    let accepts_frames = accepts_frames(request.headers());
    let caller = caller(&client, identity, request.headers());
    match served(&client, endpoint, &caller, request, &*service).await {
        Ok(HttpReply::Frame(_)) if !accepts_frames => {
            let accept = format!("the answer is a frame, and the request does not accept {FRAME_TYPE}");
            respond::refusal(&HttpRefusal::with_status(406, accept))
        }
        Ok(HttpReply::Frame(frame)) => {
            client.shared.meter.answered(&frame);
            respond::reply(HttpReply::Frame(frame))
        }
        Ok(reply) => respond::reply(reply),
        Err(refusal) => {
            let refusal = count(&client, refusal);
            respond::refusal(&refusal)
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Endpoint {
    Handshake,
    Transmit,
    Text,
    Connect,
    Health,
    Metrics,
}

impl Endpoint {
    fn of(path: &str, client: &Client) -> Option<Self> {
        Some(match path {
            HANDSHAKE => Self::Handshake,
            TRANSMIT => Self::Transmit,
            TEXT => Self::Text,
            CONNECT => Self::Connect,
            HEALTH => Self::Health,
            METRICS if client.shared.http.metrics.is_some() => Self::Metrics,
            _ => return None,
        })
    }

    fn method(self) -> Method {
        match self {
            Self::Handshake | Self::Transmit | Self::Text => Method::POST,
            Self::Connect | Self::Health | Self::Metrics => Method::GET,
        }
    }
}

async fn served(
    client: &Client,
    endpoint: Endpoint,
    caller: &HttpCaller,
    request: Request<Incoming>,
    service: &dyn HttpService,
) -> Result<HttpReply, HttpRefusal> {
    let (head, body) = request.into_parts();
    let mut reader = BodyReader::new(body);
    let is_text = matches!(endpoint, Endpoint::Text);
    let kind = if matches!(endpoint, Endpoint::Transmit) { FRAME_TYPE } else { JSON_TYPE };
    let checked = if is_text && !service.takes_text() {
        Err(HttpRefusal::new(ErrorCode::NoHandler, "Text handler not configured"))
    } else {
        request::check_type(&head.headers, kind)
    };
    // Held until the request is answered.
    let room = match checked.and_then(|()| request::begin(client, &mut reader, head.version)) {
        Ok(room) => room,
        Err(refusal) => {
            request::linger(reader);
            return Err(refusal);
        }
    };
    if let Endpoint::Transmit = endpoint {
        let frame = request::frame(client, caller, (reader, &room), service).await?;
        return service.transmit(caller, frame).await;
    }
    let limit = if is_text { MAX_JSON } else { MAX_HELLO_BYTES };
    let message = request::within(&room, request::json(client, &mut reader, limit)).await;
    let (text, _claim) = message.inspect_err(|_| request::linger(reader))?;
    room.complete(u64::try_from(text.len()).unwrap_or(u64::MAX));
    let malformed = |code, what: &str, error: &dyn std::fmt::Display| {
        HttpRefusal::new(code, format!("Invalid {what}: {error}"))
    };
    if is_text {
        let message = TextMessage::from_json(&text)
            .map_err(|error| malformed(ErrorCode::InvalidArgument, "message", &error))?;
        // Its content is in the message now.
        drop(text);
        service.text(caller, message).await
    } else {
        let hello = Hello::from_json(&text)
            .map_err(|error| malformed(ErrorCode::MalformedHello, "handshake", &error))?;
        let outcome = service.handshake(caller, hello).await;
        let how = if outcome.is_ok() { "agreed" } else { "rejected" };
        client.shared.meter.negotiated(Side::Server, how);
        outcome
    }
}

/// Who the credentials say it is. An upgrade may come without, since its hello can bring them.
fn credentials(client: &Client, headers: &HeaderMap, may_wait: bool) -> Result<Option<String>, HttpRefusal> {
    let Some(rule) = &client.shared.options.authorize else { return Ok(None) };
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = shown.and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    if token.is_none() && may_wait {
        return Ok(None);
    }
    rule.authorize(&client.peer, token).map(Some).map_err(|error| {
        tracing::debug!(peer = %client.peer, %error, "a request was turned away");
        let hint = match error {
            Unauthorized::MissingToken => token_hint(false),
            _ => token_hint(true),
        };
        HttpRefusal::new(ErrorCode::Unauthorized, format!("{hint} (Authorization: Bearer)"))
    })
}

fn caller(client: &Client, identity: Option<String>, headers: &HeaderMap) -> HttpCaller {
    let agent_id = headers.get("avp-agent-id").and_then(|value| value.to_str().ok());
    let peer_id = identity.as_deref().map_or_else(|| client.owner.clone(), PeerId::new);
    HttpCaller {
        peer: identity.into_iter().fold(client.peer.clone(), crate::connection::Peer::with_identity),
        peer_id,
        agent_id: agent_id.filter(|id| id.len() <= MAX_AGENT).map(str::to_owned),
    }
}

fn accepts_frames(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|kind| kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(FRAME_TYPE))
}

fn refuse(request: Request<Incoming>, refusal: &HttpRefusal) -> Response<OutBody> {
    linger(request);
    respond::refusal(refusal)
}

fn refuse_and_count(client: &Client, request: Request<Incoming>, refusal: &HttpRefusal) -> Response<OutBody> {
    refuse(request, &count(client, refusal.clone()))
}

/// Counts a refused request; a connection that brings too many is ended.
fn count(client: &Client, refusal: HttpRefusal) -> HttpRefusal {
    let blame = matches!(refusal.status, 400 | 401 | 408 | 413 | 415);
    if !blame || client.forgive() {
        return refusal;
    }
    client.dismiss();
    HttpRefusal::new(
        ErrorCode::BudgetSpent,
        format!("too many refused requests; the last: {}", refusal.message),
    )
}

fn linger(request: Request<Incoming>) {
    request::linger(BodyReader::new(request.into_body()));
}
