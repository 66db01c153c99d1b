//! One run of tokens through a decoder.

#[cfg(feature = "cuda")]
use std::os::fd::OwnedFd;
use std::sync::Arc;

use avp_backend::{BackendError, Input, KvPart, KvRange, LatentProjection, Sequence};
use avp_wire::KvDtype;
use candle_core::Tensor;

use crate::cache::KvCache;
use crate::canonical;
use crate::decoder::{Decoder, Keep};
use crate::error::engine;

/// A [`Sequence`] of a [`CandleBackend`](crate::CandleBackend).
#[derive(Debug)]
pub(crate) struct CandleSequence {
    model: Arc<Decoder>,
    cache: KvCache,
}

impl CandleSequence {
    pub(crate) fn new(model: Arc<Decoder>, capacity: usize) -> Result<Self, BackendError> {
        check_window(&model, capacity)?;
        let cache = model.new_cache(capacity)?;
        Ok(Self { model, cache })
    }

    /// Makes room for `total` positions; if it must grow, then by half at least, so that appending token by
    /// token copies each position a bounded number of times.
    fn grow(&mut self, total: usize) -> Result<(), BackendError> {
        check_window(&self.model, total)?;
        if total <= self.cache.capacity() {
            return Ok(());
        }
        let ahead = self.cache.capacity().saturating_add(self.cache.capacity() / 2);
        self.cache.grow(total.max(ahead).min(self.model.config.max_positions)).map_err(engine)
    }

    fn run(&mut self, input: Input<'_>, keep: Keep) -> Result<Vec<f32>, BackendError> {
        let n = input_len(&self.model, input)?;
        self.grow(self.cache.len().saturating_add(n))?;
        let x = self.embed(input)?;
        let start = self.cache.len();
        // Layers that an unfinished import filled further are about to be overwritten.
        self.cache.set_len(start);
        let model = Arc::clone(&self.model);
        model.forward(&x, start, &mut self.cache, keep, &mut |_, _| Ok(())).map_err(engine)
    }

    /// Runs `input` behind `past` positions, each layer as soon as it holds them.
    fn run_arriving(
        &mut self,
        input: Input<'_>,
        past: usize,
        arrive: &mut dyn FnMut() -> Result<KvPart, BackendError>,
    ) -> Result<Vec<f32>, BackendError> {
        let n = input_len(&self.model, input)?;
        self.grow(past.saturating_add(n))?;
        let x = self.embed(input)?;
        let model = Arc::clone(&self.model);
        let mut failed = None;
        let outcome = model.forward(&x, past, &mut self.cache, Keep::Last, &mut |layer, cache| {
            while cache.filled(layer) < past {
                let taken = arrive().and_then(|part| {
                    canonical::check_import(cache, &part.range, part.dtype, part.bytes.len())?;
                    canonical::import(cache, &part.range, part.dtype, &part.bytes)
                });
                if let Err(error) = taken {
                    failed = Some(error);
                    candle_core::bail!("the cache stopped arriving");
                }
            }
            Ok(())
        });
        outcome.map_err(|error| failed.unwrap_or_else(|| engine(error)))
    }

    /// Latent steps without the host, on whichever device.
    fn run_latent(
        &mut self,
        hidden: &[f32],
        steps: usize,
        projection: &LatentProjection,
    ) -> Result<Vec<f32>, BackendError> {
        let (expected, got) = (self.model.config.hidden, hidden.len());
        if expected != got {
            return Err(BackendError::Shape { what: "hidden state", expected, got });
        }
        if steps == 0 {
            return Ok(Vec::new());
        }
        self.grow(self.cache.len().saturating_add(steps))?;
        let start = self.cache.len();
        self.cache.set_len(start);
        let model = Arc::clone(&self.model);
        let projection = model.on_device(projection).map_err(engine)?;
        model.latent_steps(hidden, steps, &projection, start, &mut self.cache).map_err(engine)
    }

    /// `input` as layer 0 takes it, `[n, hidden]`.
    fn embed(&self, input: Input<'_>) -> Result<Tensor, BackendError> {
        match input {
            Input::Tokens(ids) => self.model.embed_tokens(ids),
            Input::Embeddings(values) => self.model.activations(values),
        }
        .map_err(engine)
    }
}

fn check_window(model: &Decoder, needed: usize) -> Result<(), BackendError> {
    let window = model.config.max_positions;
    if needed <= window { Ok(()) } else { Err(BackendError::ContextWindow { needed, window }) }
}

/// Number of positions of `input`, after checking it.
fn input_len(model: &Decoder, input: Input<'_>) -> Result<usize, BackendError> {
    let (what, n) = match input {
        Input::Tokens(ids) => {
            check_ids(model, ids)?;
            ("number of input tokens", ids.len())
        }
        Input::Embeddings(values) => {
            let hidden = model.config.hidden;
            if !values.len().is_multiple_of(hidden) {
                let expected = values.len().next_multiple_of(hidden);
                return Err(BackendError::Shape { what: "input embeddings", expected, got: values.len() });
            }
            ("number of input embeddings", values.len() / hidden)
        }
    };
    if n == 0 { Err(BackendError::Shape { what, expected: 1, got: 0 }) } else { Ok(n) }
}

/// Every id must name a row of the embedding table.
pub(crate) fn check_ids(model: &Decoder, ids: &[u32]) -> Result<(), BackendError> {
    let vocab_size = model.config.vocab;
    match ids.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= vocab_size)) {
        Some(id) => Err(BackendError::TokenId { id: *id, vocab_size }),
        None => Ok(()),
    }
}

impl Sequence for CandleSequence {
    fn len(&self) -> usize {
        self.cache.len()
    }

    fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    fn reserve(&mut self, additional: usize) -> Result<(), BackendError> {
        self.grow(self.cache.len().saturating_add(additional))
    }

    fn forward(&mut self, input: Input<'_>) -> Result<Vec<f32>, BackendError> {
        self.run(input, Keep::Last)
    }

    fn forward_all(&mut self, input: Input<'_>) -> Result<Vec<f32>, BackendError> {
        self.run(input, Keep::All)
    }

    fn forward_arriving(
        &mut self,
        input: Input<'_>,
        past: usize,
        arrive: &mut dyn FnMut() -> Result<KvPart, BackendError>,
    ) -> Result<Vec<f32>, BackendError> {
        self.run_arriving(input, past, arrive)
    }

    fn latent_steps(
        &mut self,
        hidden: &[f32],
        steps: usize,
        projection: &LatentProjection,
    ) -> Result<Option<Vec<f32>>, BackendError> {
        // On the processor there is nothing to wait for, and one pass over the table does for softmax and embedding.
        if self.model.device.is_cpu() {
            return Ok(None);
        }
        self.run_latent(hidden, steps, projection).map(Some)
    }

    fn kv_dtype(&self) -> KvDtype {
        canonical::kv_dtype(self.model.dtype)
    }

    fn export_kv(&self, range: &KvRange, out: &mut [u8]) -> Result<(), BackendError> {
        canonical::export(&self.cache, range, out)
    }

    fn import_kv(&mut self, range: &KvRange, dtype: KvDtype, bytes: &[u8]) -> Result<(), BackendError> {
        canonical::check_import(&self.cache, range, dtype, bytes.len())?;
        self.grow(range.tokens.end)?;
        canonical::import(&mut self.cache, range, dtype, bytes)
    }

    #[cfg(feature = "cuda")]
    fn share_kv(&self, device: &str) -> Result<Option<OwnedFd>, BackendError> {
        let transfers = self.cache.shape().transfers.as_ref();
        match transfers.and_then(|transfers| transfers.sharing.as_ref()) {
            Some(sharing) if sharing.device() == device => {
                sharing.share(&self.cache).map(Some).map_err(engine)
            }
            _ => Ok(None),
        }
    }

    #[cfg(feature = "cuda")]
    fn take_shared_kv(&mut self, tokens: usize, dtype: KvDtype, memory: OwnedFd) -> Result<(), BackendError> {
        let unsupported = |what: String| BackendError::Unsupported {
            what,
            supported: format!("caches of type {:?} in memory of this model's GPU", self.kv_dtype()),
        };
        let transfers = self.cache.shape().transfers.clone();
        let Some(sharing) = transfers.as_ref().and_then(|transfers| transfers.sharing.as_ref()) else {
            return Err(unsupported("a cache in memory of a device".to_owned()));
        };
        if dtype != self.kv_dtype() {
            return Err(unsupported(format!("a shared cache of type {dtype:?}")));
        }
        self.grow(tokens)?;
        sharing.take(&mut self.cache, tokens, &memory).map_err(engine)
    }

    fn fork(&self) -> Result<Box<dyn Sequence>, BackendError> {
        Ok(Box::new(Self { model: Arc::clone(&self.model), cache: self.cache.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::backend::CandleBackend;
    use crate::options::LoadOptions;

    /// Steps without the host are what a GPU takes; their operations are the same on a processor.
    #[test]
    fn latent_steps_without_the_host_give_what_projection_and_forward_in_turn_give() {
        for name in ["qwen2-tied", "llama3-gqa-bias", "gemma2", "qwen3-bias"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
            let options = LoadOptions { cache_dir: Some(std::env::temp_dir()), ..LoadOptions::default() };
            let backend = CandleBackend::load(&folder, &options).unwrap();
            let projection = LatentProjection::for_backend(&backend, None).unwrap();
            let mut sequence = CandleSequence::new(Arc::clone(backend.model()), 4).unwrap();
            let mut hidden = sequence.forward(Input::Tokens(&[1, 5, 3])).unwrap();
            let mut fork =
                CandleSequence { model: Arc::clone(&sequence.model), cache: sequence.cache.clone() };

            let states = fork.run_latent(&hidden, 3, &projection).unwrap();
            let states =
                [states.clone(), fork.run_latent(&states[2 * hidden.len()..], 2, &projection).unwrap()]
                    .concat();
            assert_eq!(fork.len(), 8);
            for (step, state) in states.chunks_exact(hidden.len()).enumerate() {
                hidden = sequence
                    .forward(Input::Embeddings(&projection.apply(&backend, &hidden).unwrap()))
                    .unwrap();
                let farthest = hidden.iter().zip(state).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(farthest < 2e-4, "{name}, step {step}: {farthest}");
            }
        }
    }
}
