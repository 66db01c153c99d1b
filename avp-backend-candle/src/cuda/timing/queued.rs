//! Decode and latent steps whose launches are queued while the device is kept busy.

use std::time::Instant;

use avp_backend::{BackendError, LatentProjection};
use candle_core::Result;
use candle_core::cuda_backend::CudaDevice;

use super::busy::Busy;
use crate::cache::KvCache;
use crate::decoder::{Decoder, Keep};
use crate::error::engine;
use crate::queued::QueuedSteps;

/// Each figure is the median of so many rounds.
const ROUNDS: usize = 5;
/// The device is kept busy for so many times as long as a step usually takes, which is longer than queueing it; for longer where it
/// began too early.
const AHEAD: [f64; 3] = [2.0, 4.0, 8.0];

/// Steps behind `past` positions.
pub(crate) fn queued_steps(
    model: &Decoder,
    device: &CudaDevice,
    past: usize,
    projection: &LatentProjection,
) -> std::result::Result<QueuedSteps, BackendError> {
    let mut cache = model.new_cache(past.saturating_add(1))?;
    let mut measured = || {
        let prompt = model.embed_tokens(&vec![1; past])?;
        let hidden = model.forward(&prompt, 0, &mut cache, Keep::Last, &mut |_, _| Ok(()))?;
        let mut steps = Steps { model, past, hidden, cache: &mut cache, busy: Busy::new(device)? };
        let (layers, ahead, all_queued) = steps.layers()?;
        let decode = layers + steps.head(ahead)?;
        Ok(QueuedSteps { decode, latent: steps.latent(projection, ahead)?, all_queued })
    };
    measured().map_err(engine)
}

struct Steps<'a> {
    model: &'a Decoder,
    cache: &'a mut KvCache,
    past: usize,
    /// That of the last position, `[hidden]`.
    hidden: Vec<f32>,
    busy: Busy,
}

impl Steps<'_> {
    /// Seconds of the pass of a token, for how many times as long the device was kept busy, and whether that was long enough.
    fn layers(&mut self) -> Result<(f64, f64, bool)> {
        let Self { model, cache, past, busy, .. } = self;
        let (model, past) = (*model, *past);
        // What a pass copies to the device is there before it is timed.
        let token = model.embed_tokens(&[1])?;
        let mut pass = |before_layer: &mut dyn FnMut(usize, &mut KvCache) -> Result<()>| {
            cache.set_len(past);
            model.forward(&token, past, cache, Keep::Last, before_layer).map(drop)
        };
        let usual = second_of_two(|| pass(&mut |_, _| Ok(())))?;
        let last = model.config.layers.len().saturating_sub(1);
        let mut figure = (f64::INFINITY, 0.0, false);
        for ahead in AHEAD {
            let mut all_queued = true;
            let seconds = median(|| {
                let queueing = busy.begin(usual * ahead)?;
                pass(&mut |layer, _| {
                    if layer == last {
                        all_queued &= queueing.is_ahead()?;
                    }
                    Ok(())
                })?;
                queueing.seconds()
            })?;
            figure = (seconds, ahead, all_queued);
            if all_queued {
                break;
            }
        }
        Ok(figure)
    }

    /// Seconds of the logits of a hidden state.
    fn head(&mut self, ahead: f64) -> Result<f64> {
        let state = self.model.activations(&self.hidden)?;
        let logits = || self.model.logits(&state)?.flatten_all()?.to_vec1::<f32>().map(drop);
        let usual = second_of_two(logits)?;
        median(|| {
            let queueing = self.busy.begin(usual * ahead)?;
            logits()?;
            queueing.seconds()
        })
    }

    /// Seconds of a latent step.
    fn latent(&mut self, projection: &LatentProjection, ahead: f64) -> Result<f64> {
        let projection = self.model.on_device(projection)?;
        let mut step = || {
            self.cache.set_len(self.past);
            self.model.latent_steps(&self.hidden, 1, &projection, self.past, self.cache).map(drop)
        };
        let usual = second_of_two(&mut step)?;
        median(|| {
            let queueing = self.busy.begin(usual * ahead)?;
            step()?;
            queueing.seconds()
        })
    }
}

/// Seconds of the second of two calls, as the host counts them.
fn second_of_two(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    call()?;
    let start = Instant::now();
    call()?;
    Ok(start.elapsed().as_secs_f64())
}

fn median(mut seconds: impl FnMut() -> Result<f64>) -> Result<f64> {
    let mut all = (0..ROUNDS).map(|_| seconds()).collect::<Result<Vec<_>>>()?;
    all.sort_by(f64::total_cmp);
    all.get(ROUNDS / 2).copied().ok_or_else(|| candle_core::Error::msg("no rounds"))
}
