//! Answers as they go out.

use ::http::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

use super::super::body::OutBody;
use super::super::service::json_text;
use super::super::{FRAME_TYPE, HttpRefusal, HttpReply, JSON_TYPE};

/// The answer to a request that was served.
pub(super) fn reply(reply: HttpReply) -> Response<OutBody> {
    match reply {
        HttpReply::Json(fields) => json(StatusCode::OK, json_text(fields)),
        HttpReply::Frame(frame) => with_type(StatusCode::OK, FRAME_TYPE, OutBody::of_frame(frame)),
    }
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, text: impl Into<String>) -> Response<OutBody> {
    with_type(status, JSON_TYPE, OutBody::from(text.into()))
}

/// An answer of any type.
pub(super) fn with_type(status: StatusCode, kind: &'static str, body: OutBody) -> Response<OutBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The answer to a request that was refused.
pub(super) fn refusal(refusal: &HttpRefusal) -> Response<OutBody> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, refusal.to_json());
    // For whoever counts refusals.
    response.extensions_mut().insert(refusal.code_or_nearest());
    let headers = response.headers_mut();
    if let Some(after) = refusal.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// 405: `method` is what the path takes.
pub(super) fn wrong_method(method: &'static str) -> Response<OutBody> {
    let mut response = refusal(&HttpRefusal::with_status(405, "Method Not Allowed"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
    response
}

/// 101, or 426 to a request that does not ask for it rightly.
pub(super) fn upgrade(mut response: Response<OutBody>, status: StatusCode) -> Response<OutBody> {
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(super::super::UPGRADE));
    headers.insert(
        HeaderName::from_static("avp-version"),
        HeaderValue::from_static(super::super::BINDING_VERSION),
    );
    response
}
