//! What a GPU takes for a step whose launches are queued before it begins: the rest of the step's time goes into launching.

use avp_backend::{BackendError, LatentProjection};

use crate::decoder::Decoder;

/// Steps on a GPU whose launches are queued before it begins, of [`CandleBackend::queued_steps`](crate::CandleBackend::queued_steps).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct QueuedSteps {
    /// Seconds of a decode step: the pass of a token and its logits, with their copies to the host.
    pub decode: f64,
    /// Seconds of a latent step, with the copy of its hidden state to the host.
    pub latent: f64,
    /// Whether a decode step's launches were queued before the GPU began, as far as it can be told: those of all layers but the last.
    /// If not, the times may hold some waiting for launches: a driver takes about a thousand before it makes the host wait.
    pub all_queued: bool,
}

/// Steps behind `past` positions, on a GPU.
pub(crate) fn steps(
    model: &Decoder,
    past: usize,
    projection: &LatentProjection,
) -> Result<Option<QueuedSteps>, BackendError> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(device) = &model.device {
        return crate::cuda::timing::queued_steps(model, device, past, projection).map(Some);
    }
    let _ = (model, past, projection);
    Ok(None)
}
