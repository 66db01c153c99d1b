//! What the asking side does on every transfer.

use avp_handshake::Reject;
use avp_transport::Transfer;
use avp_wire::{EncodeOptions, Frame};

use crate::ask_error::AskError;

/// Sends a frame; gives the bytes of its payload.
pub(crate) async fn send(lane: &Transfer, frame: Frame) -> Result<u64, AskError> {
    let bytes = frame.payload.len() as u64;
    lane.send(frame, &EncodeOptions::default()).await?;
    Ok(bytes)
}

/// The next frame of the peer, unless it is a refusal.
pub(crate) async fn reply(lane: &mut Transfer) -> Result<Frame, AskError> {
    accepted(lane.recv().await?.ok_or(AskError::Closed)?)
}

/// What the peer said, unless that is a refusal.
pub(crate) fn accepted(frame: Frame) -> Result<Frame, AskError> {
    match Reject::from_frame(&frame) {
        Some(reject) => Err(reject.into()),
        None => Ok(frame),
    }
}

/// Runs what takes long on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AskError> {
    tokio::task::spawn_blocking(run).await.map_err(|_| AskError::Lost)
}
