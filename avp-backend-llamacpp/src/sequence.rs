//! One sequence of a GGUF model.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use avp_backend::{BackendError, Filled, Input, KvRange, Sequence};
use avp_wire::KvDtype;

use crate::cache::Cache;
use crate::ffi::Outputs;
use crate::loaded::Loaded;

/// A [`Sequence`] of a [`LlamaCppBackend`](crate::LlamaCppBackend). Forks share a cache until one of them appends.
pub(crate) struct LlamaCppSequence {
    model: Arc<Loaded>,
    cache: Arc<Mutex<Cache>>,
    len: usize,
    capacity: usize,
}

impl LlamaCppSequence {
    pub(crate) fn new(model: Arc<Loaded>, capacity: usize) -> Result<Self, BackendError> {
        model.check_window(capacity)?;
        let cache = Arc::new(Mutex::new(Cache::new(Arc::clone(&model))));
        Ok(Self { model, cache, len: 0, capacity })
    }

    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for `total` positions; if it must grow, then by half at least.
    fn grow(&mut self, total: usize) -> Result<(), BackendError> {
        self.model.check_window(total)?;
        if total > self.capacity {
            let ahead = self.capacity.saturating_add(self.capacity / 2);
            self.capacity = total.max(ahead).min(self.model.info.max_positions);
        }
        Ok(())
    }

    /// The cache for this sequence alone: what forks share is copied first.
    fn own(&mut self) -> Result<(), BackendError> {
        if Arc::strong_count(&self.cache) > 1 {
            let copy = self.lock().go_on(self.len)?;
            self.cache = Arc::new(Mutex::new(copy));
        }
        Ok(())
    }

    fn run(&mut self, input: Input<'_>, outputs: Outputs) -> Result<Vec<f32>, BackendError> {
        let count = self.model.input_len(input)?;
        let total = self.len.saturating_add(count);
        self.grow(total)?;
        self.own()?;
        let (model, len, capacity) = (Arc::clone(&self.model), self.len, self.capacity);
        let mut cache = self.lock();
        let context = cache.load(len, capacity)?;
        let hidden = match input {
            Input::Tokens(ids) => context.decode_tokens(ids, len, outputs),
            Input::Embeddings(rows) => context.decode_embeddings(rows, len, outputs),
        };
        let expected = model.hidden_dim() * if outputs == Outputs::All { count } else { 1 };
        let hidden = match hidden {
            Ok(hidden) if hidden.len() == expected => hidden,
            failed => {
                cache.take_back(len);
                let code = failed.map_or_else(|failed| failed.0, |_| 0);
                return Err(BackendError::Engine(format!("llama.cpp could not compute ({code})")));
            }
        };
        if let Some(logits) = context.logits() {
            model.remember(&hidden, logits);
        }
        cache.appended(total);
        drop(cache);
        self.len = total;
        Ok(hidden)
    }

    fn check_range(&self, range: &KvRange, tokens: usize) -> Result<(), BackendError> {
        let (num_layers, num_tokens) = (self.model.layout.layers, tokens);
        let fits = range.layers.start <= range.layers.end
            && range.layers.end <= num_layers
            && range.tokens.start <= range.tokens.end
            && range.tokens.end <= num_tokens;
        let (layers, tokens) = (range.layers.clone(), range.tokens.clone());
        if fits { Ok(()) } else { Err(BackendError::KvRange { layers, tokens, num_layers, num_tokens }) }
    }

    /// Bytes of each layer of a range.
    fn layer_bytes(&self, range: &KvRange, dtype: KvDtype) -> usize {
        let layout = &self.model.layout;
        let width = layout.kv_heads.saturating_mul(layout.head_dim);
        [2, range.tokens.len(), dtype.size()].into_iter().fold(width, usize::saturating_mul)
    }
}

fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), BackendError> {
    if expected == got { Ok(()) } else { Err(BackendError::Shape { what, expected, got }) }
}

impl Sequence for LlamaCppSequence {
    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn reserve(&mut self, additional: usize) -> Result<(), BackendError> {
        self.grow(self.len.saturating_add(additional))
    }

    fn forward(&mut self, input: Input<'_>) -> Result<Vec<f32>, BackendError> {
        self.run(input, Outputs::Last)
    }

    fn forward_all(&mut self, input: Input<'_>) -> Result<Vec<f32>, BackendError> {
        self.run(input, Outputs::All)
    }

    fn kv_dtype(&self) -> KvDtype {
        self.model.layout.kind.canonical()
    }

    fn export_kv(&self, range: &KvRange, out: &mut [u8]) -> Result<(), BackendError> {
        self.check_range(range, self.len)?;
        let each = self.layer_bytes(range, self.kv_dtype());
        check_length("bytes of a KV export", each.saturating_mul(range.layers.len()), out.len())?;
        if each == 0 {
            return Ok(());
        }
        self.lock().read(self.len, range, each, out)
    }

    fn import_kv(&mut self, range: &KvRange, dtype: KvDtype, bytes: &[u8]) -> Result<(), BackendError> {
        let filled = {
            let cache = self.lock();
            let layers = cache.filled.get(range.layers.clone()).unwrap_or_default();
            layers.iter().map(Filled::prefix).min().unwrap_or(self.len)
        };
        // Beyond the room that was asked for, a layer grows at its end only.
        let reach = filled.max(self.capacity);
        self.check_range(range, if range.tokens.start <= reach { usize::MAX } else { reach })?;
        let each = self.layer_bytes(range, dtype);
        check_length("bytes of a KV import", each.saturating_mul(range.layers.len()), bytes.len())?;
        if each == 0 {
            return Ok(());
        }
        self.grow(range.tokens.end)?;
        self.own()?;
        let (model, len, capacity) = (Arc::clone(&self.model), self.len, self.capacity);
        let mut cache = self.lock();
        cache.image_mut(len, range.tokens.end, capacity)?.write(&model, range, dtype, each, bytes)?;
        for filled in cache.filled.get_mut(range.layers.clone()).unwrap_or_default() {
            filled.add(&range.tokens);
        }
        let len = cache.filled.iter().map(Filled::prefix).min().unwrap_or(0);
        drop(cache);
        self.len = len;
        Ok(())
    }

    fn fork(&self) -> Result<Box<dyn Sequence>, BackendError> {
        let (model, cache) = (Arc::clone(&self.model), Arc::clone(&self.cache));
        Ok(Box::new(Self { model, cache, len: self.len, capacity: self.capacity }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use avp_backend::{Backend, BackendError, Input, Sequence};

    use super::LlamaCppSequence;
    use crate::{LlamaCppBackend, LoadOptions};

    const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/gguf/avp-demo-llama-f16.gguf");

    #[test]
    fn a_pass_that_fails_leaves_the_sequence_as_it_was() {
        static FAILS: AtomicBool = AtomicBool::new(false);
        let backend = LlamaCppBackend::load(DEMO, &LoadOptions::default()).unwrap();
        let prompt: Vec<u32> = (5..45).collect();
        let mut expected = backend.new_sequence(64).unwrap();
        expected.forward(Input::Tokens(&prompt)).unwrap();
        let expected = expected.forward(Input::Tokens(&[7, 8, 9])).unwrap();

        let loaded = backend.loaded();
        let mut sequence = LlamaCppSequence::new(loaded, 64).unwrap();
        sequence.forward(Input::Tokens(&prompt)).unwrap();
        let len = sequence.len;
        sequence.lock().load(len, 64).unwrap().fail_while(&FAILS);
        for ids in [&[1, 2, 3][..], &[4]] {
            FAILS.store(true, Ordering::SeqCst);
            let error = sequence.forward(Input::Tokens(ids)).unwrap_err();
            assert!(matches!(error, BackendError::Engine(_)), "{error}");
            FAILS.store(false, Ordering::SeqCst);
            assert_eq!(sequence.len(), prompt.len());
        }
        let fork = sequence.fork().unwrap();
        assert!(sequence.forward(Input::Tokens(&[7, 8, 9])).unwrap() == expected);
        let mut fork = fork;
        assert!(fork.forward(Input::Tokens(&[7, 8, 9])).unwrap() == expected);
    }
}
