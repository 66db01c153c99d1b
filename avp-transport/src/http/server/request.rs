//! Taking what a request brings: a JSON message whole, a frame as it arrives.

use std::time::Duration;

use ::http::header::CONTENT_TYPE;
use avp_wire::{DecodeError, ErrorCode, Frame};
use bytes::BytesMut;
use hyper::HeaderMap;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::super::body::BodyReader;
use super::super::{HttpCaller, HttpRefusal, HttpService};
use super::connection::Client;
use crate::budget::MemoryClaim;
use crate::error::{Deadline, LimitExceeded, TransportError};
use crate::intake::Intake;
use crate::link::{FrameReceiver, Result};
use crate::patience::Patience;
use crate::stream::StreamReceiver;
use crate::telemetry::Direction;

/// A refused body is read on for a while, since a client that writes does not see the answer before it has written.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: u64 = 16 << 20;
/// First room for a JSON message.
const ROOM: usize = 8 << 10;

/// Checks that the body is said to be of `kind`, or not said to be anything.
pub(super) fn check_type(headers: &HeaderMap, kind: &str) -> Result<(), HttpRefusal> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(kind) {
        return Ok(());
    }
    Err(HttpRefusal::with_status(415, format!("the body should be {kind} (Content-Type)")))
}

/// A JSON message of at most `limit` bytes, and the memory claimed for it.
pub(super) async fn json(
    client: &Client,
    reader: &mut BodyReader,
    limit: usize,
) -> Result<(BytesMut, MemoryClaim), HttpRefusal> {
    let too_large = || HttpRefusal::with_status(413, format!("the body is longer than {limit} bytes"));
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    let announced = reader.announced().unwrap_or(most);
    if announced > most {
        return Err(too_large());
    }
    let limits = &client.shared.options.limits;
    let claim = client.memory.claim(announced, limits.frame_timeout);
    let claim = client.shared.meter.watch(Direction::Received, claim).await;
    let claim = claim.map_err(|error| busy(&error))?;
    let mut patience = Patience::new(limits, client.shared.meter.clone(), Direction::Received);
    let mut text = BytesMut::with_capacity(ROOM.min(limit));
    loop {
        if text.len() > limit {
            return Err(too_large());
        }
        match patience.wait(reader.read_buf(&mut text)).await {
            Some(Ok(0)) => return Ok((text, claim)),
            Some(Ok(bytes)) => patience.moved(bytes),
            Some(Err(error)) => return Err(HttpRefusal::new(ErrorCode::ConnectionLost, error.to_string())),
            None => {
                let got = u64::try_from(text.len()).unwrap_or(u64::MAX);
                let (peer, which, after) = (client.peer.to_string(), Deadline::Receive, patience.waited());
                let slow = LimitExceeded::Deadline { peer, which, after, got, expected: announced };
                return Err(HttpRefusal::new(slow.code(), slow.to_string()));
            }
        }
    }
}

/// The body's one frame, judged by its head before its payload is taken.
pub(super) async fn frame(
    client: &Client,
    caller: &HttpCaller,
    reader: BodyReader,
    service: &dyn HttpService,
) -> Result<Frame, HttpRefusal> {
    let mut options = client.shared.options.clone();
    options.timeouts.idle = options.limits.frame_timeout;
    let meter = client.shared.meter.clone();
    let intake = Intake::within(client.memory.clone(), client.peer.to_string(), &options, meter);
    let mut receiver = StreamReceiver::with_intake(reader, intake, &options);
    let taken = take(caller, &mut receiver, service).await;
    if taken.is_err() {
        linger(receiver.into_io());
    }
    taken
}

async fn take(
    caller: &HttpCaller,
    receiver: &mut StreamReceiver<BodyReader>,
    service: &dyn HttpService,
) -> Result<Frame, HttpRefusal> {
    match receiver.head().await {
        Ok(Some(head)) => service.judge(caller, head)?,
        Ok(None) => {
            let nothing = DecodeError::Truncated { needed: 12, got: 0 };
            return Err(HttpRefusal::new(nothing.code(), nothing.to_string()));
        }
        Err(error) => return Err(refusal(&error)),
    }
    let frame = receiver.payload().await.map_err(|error| refusal(&error))?;
    match receiver.head().await {
        Ok(None) => Ok(frame),
        Ok(Some(_)) | Err(_) => {
            Err(HttpRefusal::new(ErrorCode::TrailingBytes, "the body goes on after the frame"))
        }
    }
}

/// Reads on what is left of a refused body, for a while.
pub(super) fn linger(reader: BodyReader) {
    if reader.is_finished() {
        return;
    }
    tokio::spawn(async move {
        let mut rest = reader.take(LINGER_BYTES);
        let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    });
}

fn refusal(error: &TransportError) -> HttpRefusal {
    match error {
        TransportError::Limit(limit @ LimitExceeded::Memory { .. }) => busy(limit),
        error => HttpRefusal::from(error),
    }
}

/// Memory that others hold may be free soon; a frame that can never fit is refused by its head.
fn busy(error: &LimitExceeded) -> HttpRefusal {
    HttpRefusal { code: Some(error.code()), ..HttpRefusal::new(ErrorCode::Busy, error.to_string()) }
}
