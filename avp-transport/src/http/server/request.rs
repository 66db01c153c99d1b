//! Taking what a request brings: a JSON message whole, a frame as it arrives.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::CONTENT_TYPE;
use avp_wire::{DecodeError, ErrorCode, Frame};
use bytes::BytesMut;
use hyper::{HeaderMap, Version};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::super::body::BodyReader;
use super::super::tuning::{BUFFER, STREAM_WINDOW};
use super::super::{HttpCaller, HttpRefusal, HttpService};
use super::connection::Client;
use crate::bodies::Room;
use crate::budget::MemoryClaim;
use crate::error::{Deadline, IoFault, LimitExceeded, TransportError};
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
    let expected = reader.announced().unwrap_or_default();
    let mut patience = Patience::new(limits, client.shared.meter.clone(), Direction::Received);
    let mut text = BytesMut::with_capacity(ROOM.min(limit));
    loop {
        if text.len() > limit {
            return Err(too_large());
        }
        match patience.wait(reader.read_buf(&mut text)).await {
            Some(Ok(0)) => return Ok((text, claim)),
            Some(Ok(bytes)) => patience.moved(bytes),
            Some(Err(error)) => {
                let lost = || HttpRefusal::new(ErrorCode::ConnectionLost, error.to_string());
                return Err(full(&error).map_or_else(lost, busy));
            }
            None => {
                let peer = client.peer.to_string();
                let slow = patience.exhausted(&peer, Deadline::Receive, text.len(), expected);
                return Err(HttpRefusal::new(slow.code(), slow.to_string()));
            }
        }
    }
}

/// Room for a body among all of the listener, charged from here on.
pub(super) fn begin(
    client: &Client,
    reader: &mut BodyReader,
    version: Version,
) -> Result<Arc<Room>, HttpRefusal> {
    let room = Arc::new(client.shared.bodies.begin(client.presence.key()));
    let ahead = match version {
        Version::HTTP_2 => u64::from(STREAM_WINDOW),
        _ => u64::try_from(BUFFER).unwrap_or(u64::MAX),
    };
    match reader.charge(Arc::clone(&room), ahead) {
        Ok(()) => Ok(room),
        Err(full) => Err(busy(&full)),
    }
}

/// Takes a body until it has to make room for others.
pub(super) async fn within<T>(
    room: &Room,
    taking: impl Future<Output = Result<T, HttpRefusal>>,
) -> Result<T, HttpRefusal> {
    tokio::select! {
        biased;
        full = room.taken() => Err(busy(&full)),
        taken = taking => taken,
    }
}

/// The body's one frame, judged by its head before its payload is taken.
pub(super) async fn frame(
    client: &Client,
    caller: &HttpCaller,
    (reader, room): (BodyReader, &Arc<Room>),
    service: &dyn HttpService,
) -> Result<Frame, HttpRefusal> {
    let mut options = client.shared.options.clone();
    options.timeouts.idle = options.limits.frame_timeout;
    // One that can never fit is refused by its head.
    options.limits.memory_budget = options.limits.memory_budget.min(client.shared.bodies.budget());
    let meter = client.shared.meter.clone();
    let intake = Intake::within(client.memory.clone(), client.peer.to_string(), &options, meter);
    let mut receiver = StreamReceiver::with_intake(reader, intake.charging(Arc::clone(room)), &options);
    let taken = within(room, take(caller, &mut receiver, service)).await;
    match &taken {
        Ok(frame) => room.complete(u64::try_from(frame.payload.len()).unwrap_or(u64::MAX)),
        Err(_) => linger(receiver.into_io()),
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
    let reader = reader.discarding();
    tokio::spawn(async move {
        let mut rest = reader.take(LINGER_BYTES);
        let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    });
}

fn refusal(error: &TransportError) -> HttpRefusal {
    match error {
        TransportError::Limit(limit @ (LimitExceeded::Memory { .. } | LimitExceeded::Bodies { .. })) => {
            busy(limit)
        }
        TransportError::Io(IoFault::Broken { source, .. }) => {
            full(source).map_or_else(|| HttpRefusal::from(error), busy)
        }
        error => HttpRefusal::from(error),
    }
}

/// That a body's reader found no room for it.
fn full(error: &std::io::Error) -> Option<&LimitExceeded> {
    error.get_ref()?.downcast_ref()
}

/// Memory that others hold may be free soon; a frame that can never fit is refused by its head.
fn busy(error: &LimitExceeded) -> HttpRefusal {
    HttpRefusal { code: Some(error.code()), ..HttpRefusal::new(ErrorCode::Busy, error.to_string()) }
}
