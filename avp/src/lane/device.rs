//! Contexts whose planes lie in memory of the device that both engines compute on (docs/spec/exchange.md, 9).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use avp_backend::{Context, ContextImport};
use avp_handshake::Reject;
use avp_transport::Transfer;
use avp_wire::{Bytes, ErrorCode, Frame, KvHeader, ext};

use super::{Given, Lane};
use crate::answering::{blocking, import_refusal};
use crate::server::Shared;

/// The memory that a frame names, if it names one; claimed, so that it is let go of with this value.
pub(super) fn claimed(lane: &Transfer, frame: &Frame) -> Option<Result<OwnedFd, Reject>> {
    let value = frame.metadata.extra.get(ext::MEMORY)?;
    let is_decimal = !value.is_empty() && value.bytes().all(|digit| digit.is_ascii_digit());
    let Some(token) = value.parse().ok().filter(|_| is_decimal) else {
        let message = format!("{} is no decimal number", ext::MEMORY);
        return Some(Err(Reject::new(ErrorCode::InvalidExtension, message)));
    };
    Some(lane.claim(token).ok_or_else(|| unusable("no memory was passed under this token")))
}

impl Lane {
    /// Takes a context out of memory. A sender that hears of a refusal sends frames.
    pub(super) async fn take_from_device(
        &mut self,
        memory: Result<OwnedFd, Reject>,
        frame: Frame,
    ) -> Result<Vec<Frame>, Reject> {
        let memory = memory?;
        if !matches!(self.context, Given::Nothing) {
            return Err(Reject::new(ErrorCode::UnexpectedFrame, "the transfer has a context already"));
        }
        self.take_permit()?;
        match taken(Arc::clone(&self.session.shared), memory, frame).await {
            Ok(context) => {
                self.context = Given::Whole(Ok(context));
                Ok(vec![self.bare_ack()])
            }
            Err(refusal) => {
                self.release_permit();
                Err(refusal)
            }
        }
    }
}

async fn taken(shared: Arc<Shared>, memory: OwnedFd, frame: Frame) -> Result<Context, Reject> {
    let taken = blocking(move || {
        let (backend, policy) = (shared.agent.backend().as_ref(), shared.options.policy);
        let header = header_of(&frame.payload)?;
        let mut import = ContextImport::begin(&frame.metadata, &header, backend, policy)
            .map_err(|error| import_refusal(&error))?;
        import.take_shared(memory).map_err(|error| {
            tracing::info!(%error, "a context in memory of the device could not be taken");
            unusable(&error.to_string())
        })?;
        Ok(import.finish(backend))
    });
    let context: Context = taken.await??;
    tracing::info!(tokens = context.len(), "a context came through memory of the device");
    Ok(context)
}

fn header_of(payload: &Bytes) -> Result<KvHeader, Reject> {
    if payload.len() != KvHeader::SIZE {
        let message = format!(
            "the payload of a cache in memory is its header, {} bytes, not {}",
            KvHeader::SIZE,
            payload.len()
        );
        return Err(Reject::new(ErrorCode::InvalidArgument, message));
    }
    KvHeader::decode(payload).map_err(|error| Reject::new(error.code(), error.to_string()))
}

fn unusable(why: &str) -> Reject {
    Reject::new(ErrorCode::InvalidArgument, format!("the memory cannot be used: {why}"))
}
