//! A KV cache through memory of the device that both engines compute on (docs/spec/exchange.md, 7). Where that does not work, it goes
//! as frames.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use avp_backend::{Context, ContextImport};
use avp_handshake::Reject;
use avp_transport::Transfer;
use avp_wire::ext::{self, FrameKind};
use avp_wire::slab::SlabError;
use avp_wire::{Bytes, ErrorCode, Frame, KvHeader, Metadata, Mode};

use crate::KvPath;
use crate::answering::{blocking as served, import_refusal};
use crate::ask_error::AskError;
use crate::asking::{accepted, blocking, send};
use crate::outgoing::OutgoingContext;
use crate::server::Shared;

/// Passes the cache of `context` in memory of `device`. `described` marks it as one slab of the transfer.
pub(crate) async fn hand_over(
    lane: &mut Transfer,
    context: &OutgoingContext,
    mut described: Metadata,
    device: String,
) -> Result<KvPath, AskError> {
    let source = context.clone();
    let memory = match blocking(move || source.share(&device)).await? {
        Ok(Some(memory)) => memory,
        Ok(None) => return Ok(KvPath::Host { why: None }),
        Err(error) => return Ok(KvPath::Host { why: Some(error.to_string()) }),
    };
    let token = lane.pass(memory).await?;
    described.extra.insert(ext::MEMORY.to_owned(), token.to_string());
    send(lane, Frame::new(described, context.kv_header().encode().to_vec())).await?;
    let reply = lane.recv().await?.ok_or(AskError::Closed)?;
    if reply.kind() == Ok(Some(FrameKind::Ack)) && reply.metadata.mode == Mode::Latent {
        return Ok(KvPath::Device);
    }
    match accepted(reply) {
        // What is wrong with the context itself is said again of its frames.
        Err(AskError::Refused { message, .. }) => Ok(KvPath::Host { why: Some(message) }),
        Err(error) => Err(error),
        Ok(_) => Err(AskError::Protocol(SlabError::NotAck)),
    }
}

/// Whether a frame speaks of memory that was passed beside it.
pub(crate) fn is_in_memory(frame: &Frame) -> bool {
    frame.metadata.extra.contains_key(ext::MEMORY)
}

/// Takes the context of a frame whose planes lie in memory.
pub(crate) async fn take(lane: &Transfer, shared: Arc<Shared>, frame: Frame) -> Result<Context, Reject> {
    let memory = memory_of(lane, &frame)?;
    let taken = served(move || {
        let (agent, policy) = (&shared.agent, shared.options.policy);
        let header = header_of(&frame.payload)?;
        let refusal = |error| import_refusal(&error);
        let mut import = ContextImport::begin(&frame.metadata, &header, agent.backend().as_ref(), policy)
            .map_err(refusal)?;
        import.take_shared(memory).map_err(|error| {
            tracing::info!(%error, "a context in memory of the device could not be taken");
            unusable(&error.to_string())
        })?;
        Ok(import.finish(agent.backend().as_ref()))
    });
    let context: Context = taken.await??;
    tracing::info!(tokens = context.len(), "a context came through memory of the device");
    Ok(context)
}

fn memory_of(lane: &Transfer, frame: &Frame) -> Result<OwnedFd, Reject> {
    let value = frame.metadata.extra.get(ext::MEMORY).map_or("", String::as_str);
    let is_decimal = !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit());
    let token = value.parse().ok().filter(|_| is_decimal);
    let token = token.ok_or_else(|| {
        Reject::new(ErrorCode::InvalidExtension, format!("{} is no decimal number", ext::MEMORY))
    })?;
    lane.claim(token).ok_or_else(|| unusable("no memory was passed under this token"))
}

fn header_of(payload: &Bytes) -> Result<KvHeader, Reject> {
    let header = match payload.len() {
        KvHeader::SIZE => KvHeader::decode(payload),
        len => {
            let message = format!("a cache in memory has a payload of {} bytes, not {len}", KvHeader::SIZE);
            return Err(Reject::new(ErrorCode::InvalidArgument, message));
        }
    };
    header.map_err(|error| Reject::new(error.code(), error.to_string()))
}

fn unusable(why: &str) -> Reject {
    Reject::new(ErrorCode::InvalidArgument, format!("the memory cannot be used: {why}"))
}

/// What a receiver says that has taken a cache out of memory.
pub(crate) fn taken(mut stamp: Metadata) -> Frame {
    stamp.extra.insert(ext::KIND.to_owned(), FrameKind::Ack.as_str().to_owned());
    Frame::new(stamp, Vec::new())
}
