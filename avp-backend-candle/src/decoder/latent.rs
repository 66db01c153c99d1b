//! Latent steps that stay where the model computes: what one step gives is never copied to the host before the next.

use std::sync::{Arc, PoisonError};

use avp_backend::{LatentProjection, SMALLEST_NORM};
use candle_core::{D, DType, Result, Tensor};

use super::{Decoder, product};
use crate::cache::KvCache;

/// A [`LatentProjection`] with its matrix on the device.
#[derive(Clone, Debug)]
pub(crate) enum DeviceProjection {
    /// Through the vocabulary.
    SoftEmbedding,
    /// By a matrix `[hidden, hidden]` in f32, then scaled to a norm.
    Realignment {
        /// The matrix on the host, which says whether another projection is the same.
        host: Arc<[f32]>,
        matrix: Tensor,
        bias: Option<Tensor>,
        norm: f64,
    },
}

impl DeviceProjection {
    fn new(projection: &LatentProjection, model: &Decoder) -> Result<Self> {
        let LatentProjection::Realignment(map) = projection else { return Ok(Self::SoftEmbedding) };
        let hidden = model.config.hidden;
        Ok(Self::Realignment {
            host: Arc::clone(map.matrix()),
            matrix: Tensor::from_slice(map.matrix(), (hidden, hidden), &model.device)?,
            bias: map.bias().map(|bias| Tensor::from_slice(bias, (1, hidden), &model.device)).transpose()?,
            norm: f64::from(map.target_norm()),
        })
    }

    /// Whether this is `projection`, so that nothing need be copied again.
    fn is(&self, projection: &LatentProjection) -> bool {
        match (self, projection) {
            (Self::SoftEmbedding, LatentProjection::SoftEmbedding) => true,
            (Self::Realignment { host, .. }, LatentProjection::Realignment(map)) => {
                Arc::ptr_eq(host, map.matrix())
            }
            _ => false,
        }
    }

    /// The input embedding `[1, hidden]` of a hidden state `[1, hidden]`.
    fn apply(&self, model: &Decoder, hidden: &Tensor) -> Result<Tensor> {
        match self {
            Self::SoftEmbedding => {
                let logits = model.logits(hidden)?;
                // By several operations: the one for last dimensions has one warp of a GPU go over the whole vocabulary.
                let weights = candle_nn::ops::softmax(&logits, D::Minus1)?.to_dtype(model.dtype)?;
                let embedding = weights.matmul(&model.embed)?.to_dtype(model.activations)?;
                match model.embed_scale() {
                    Some(scale) => embedding * f64::from(scale),
                    None => Ok(embedding),
                }
            }
            Self::Realignment { matrix, bias, norm, .. } => {
                let mut mapped = hidden.to_dtype(DType::F32)?.matmul(matrix)?;
                if let Some(bias) = bias {
                    mapped = (mapped + bias)?;
                }
                let length = mapped.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(f64::from(SMALLEST_NORM))?;
                (mapped.broadcast_div(&length)? * *norm)?.to_dtype(model.activations)
            }
        }
    }
}

impl Decoder {
    /// `projection` where the model computes. The last one is kept, so that its matrix is copied once.
    pub(crate) fn on_device(&self, projection: &LatentProjection) -> Result<DeviceProjection> {
        let mut kept = self.projection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is(projection)) {
            return Ok(kept.clone());
        }
        let new = DeviceProjection::new(projection, self)?;
        *kept = Some(new.clone());
        Ok(new)
    }

    /// Logits `[n, vocab]` in f32 of hidden states `[n, hidden]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = product(hidden, self.head())?.to_dtype(DType::F32)?;
        match self.config.logit_softcap.map(f64::from) {
            Some(cap) => (logits / cap)?.tanh()? * cap,
            None => Ok(logits),
        }
    }

    /// `steps` latent steps from `hidden` on behind the `start` positions of `cache`, which must have room: the hidden states of all,
    /// row-major. The host waits once, for the last.
    pub(crate) fn latent_steps(
        &self,
        hidden: &[f32],
        steps: usize,
        projection: &DeviceProjection,
        start: usize,
        cache: &mut KvCache,
    ) -> Result<Vec<f32>> {
        let mut state = self.activations(hidden)?;
        let mut states = Vec::with_capacity(steps);
        for at in start..start.saturating_add(steps) {
            let embedding = projection.apply(self, &state)?;
            let last = self.forward_chunk(embedding, at, cache, &mut |_, _| Ok(()))?;
            state = self.norm.forward(&last)?;
            states.push(state.clone());
        }
        cache.set_len(start.saturating_add(steps));
        Tensor::cat(&states, 0)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }
}
