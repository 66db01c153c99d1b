//! What the sequences of a model share.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use avp_backend::{BackendError, Input, ModelInfo, RealignmentProducts, TokenMix};
use avp_wire::BufferPool;
use rayon::prelude::*;

use crate::ffi::{Context, ContextParams, Model, Table, add_scaled};
use crate::state::Layout;

/// Passes whose logits are kept until they are asked for.
const REMEMBERED: usize = 16;
/// Positions that are computed in one pass.
const BATCH: u32 = 512;
/// Contexts that are kept for the next sequence, and the most bytes of the cache of one.
const IDLE: usize = 2;
const MOST_IDLE: usize = 256 << 20;
/// Bytes of states that are kept for the next one.
const MOST_BUFFERED: usize = 512 << 20;
/// Table rows per step of a pass over a whole table.
const BLOCK_ROWS: usize = 256;

/// A loaded model, and what its files say.
pub(crate) struct Loaded {
    pub(crate) model: Arc<Model>,
    pub(crate) info: ModelInfo,
    pub(crate) layout: Layout,
    /// `token_embd`.
    pub(crate) embeddings: Table,
    /// `output`, or the embeddings of a tied model.
    pub(crate) head: Table,
    /// Whether llama.cpp computes logits with each pass, as it should where the output table is on a GPU. Elsewhere they are
    /// computed when they are asked for: thinking and reading need none.
    pub(crate) head_in_pass: bool,
    /// Hidden states of the latest passes and their logits, where llama.cpp computes them.
    passes: Mutex<VecDeque<(Vec<f32>, Vec<f32>)>>,
    /// Contexts that no sequence uses: making one costs several passes.
    idle: Mutex<Vec<Context>>,
    /// Where states lie.
    pub(crate) buffers: BufferPool,
}

impl Loaded {
    pub(crate) fn new(
        model: Model,
        info: ModelInfo,
        layout: Layout,
        (embeddings, head): (Table, Table),
        head_in_pass: bool,
    ) -> Self {
        Self {
            model: Arc::new(model),
            info,
            layout,
            embeddings,
            head,
            head_in_pass,
            passes: Mutex::default(),
            idle: Mutex::default(),
            buffers: BufferPool::new(MOST_BUFFERED),
        }
    }

    /// An empty context with room for `capacity` positions or more.
    pub(crate) fn context(&self, capacity: usize) -> Option<Context> {
        let mut idle = self.lock_idle();
        let fitting = idle.iter().enumerate().filter(|(_, context)| context.capacity() >= capacity);
        let fitting = fitting.min_by_key(|(_, context)| context.capacity()).map(|(index, _)| index);
        if let Some(index) = fitting {
            return Some(idle.remove(index));
        }
        drop(idle);
        let params = ContextParams {
            capacity: u32::try_from(capacity.max(1)).unwrap_or(u32::MAX),
            batch: BATCH,
            kv_type: self.layout.kind.ggml_type(),
            flash_attention: !self.layout.transposed,
            head: self.head_in_pass,
        };
        Context::new(Arc::clone(&self.model), params)
    }

    /// Takes back a context that is not needed any more.
    pub(crate) fn give_back(&self, mut context: Context) {
        if self.layout.state_bytes(context.capacity()) > MOST_IDLE {
            return;
        }
        context.clear();
        let mut idle = self.lock_idle();
        idle.push(context);
        // The one that was unused for longest makes room; it is freed outside of the lock.
        let surplus = (idle.len() > IDLE).then(|| idle.remove(0));
        drop(idle);
        drop(surplus);
    }

    fn lock_idle(&self) -> MutexGuard<'_, Vec<Context>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hidden_dim(&self) -> usize {
        self.embeddings.width()
    }

    pub(crate) fn check_window(&self, needed: usize) -> Result<(), BackendError> {
        let window = self.info.max_positions;
        if needed <= window { Ok(()) } else { Err(BackendError::ContextWindow { needed, window }) }
    }

    /// Number of positions of `input`, after checking it: llama.cpp looks no rows up that are not there.
    pub(crate) fn input_len(&self, input: Input<'_>) -> Result<usize, BackendError> {
        let (what, count) = match input {
            Input::Tokens(ids) => {
                self.check_ids(ids)?;
                ("number of input tokens", ids.len())
            }
            Input::Embeddings(rows) => {
                self.check_rows("input embeddings", rows)?;
                ("number of input embeddings", rows.len() / self.hidden_dim())
            }
        };
        if count == 0 { Err(BackendError::Shape { what, expected: 1, got: 0 }) } else { Ok(count) }
    }

    fn check_rows(&self, what: &'static str, rows: &[f32]) -> Result<(), BackendError> {
        let (width, got) = (self.hidden_dim(), rows.len());
        let expected = got.next_multiple_of(width);
        if expected == got { Ok(()) } else { Err(BackendError::Shape { what, expected, got }) }
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), BackendError> {
        let vocab_size = self.embeddings.rows();
        match ids.iter().find(|id| usize::try_from(**id).map_or(true, |id| id >= vocab_size)) {
            Some(id) => Err(BackendError::TokenId { id: *id, vocab_size }),
            None => Ok(()),
        }
    }

    /// Keeps the logits of a pass for [`logits`](Self::logits).
    pub(crate) fn remember(&self, hidden: &[f32], logits: Vec<f32>) {
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        passes.truncate(REMEMBERED - 1);
        passes.push_front((hidden.to_vec(), logits));
    }

    /// Logits `[n, vocab]` of `hidden [n, hidden]`: those of a late pass as llama.cpp computed them, others by the table.
    pub(crate) fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, BackendError> {
        self.check_rows("hidden states", hidden)?;
        if hidden.is_empty() {
            return Ok(Vec::new());
        }
        let passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = passes.iter().find(|(of, _)| of == hidden).map(|(_, logits)| logits.clone());
        drop(passes);
        let product = || self.head.product(hidden, self.model.threads());
        let no_memory = || BackendError::Engine("no memory for the logits; ask for fewer at a time".into());
        known.or_else(product).ok_or_else(no_memory)
    }

    /// One weighted sum of input embeddings per mix, `[mixes, hidden]`.
    pub(crate) fn embed_mix(&self, mixes: &[TokenMix<'_>]) -> Result<Vec<f32>, BackendError> {
        let mut out = Vec::with_capacity(mixes.len().saturating_mul(self.hidden_dim()));
        for mix in mixes {
            let (what, expected, got) = match mix {
                TokenMix::Sparse { ids, weights } => {
                    self.check_ids(ids)?;
                    ("weights of a sparse mix", ids.len(), weights.len())
                }
                TokenMix::Dense(weights) => {
                    ("weights of a dense mix", weights.len().min(self.embeddings.rows()), weights.len())
                }
            };
            if expected != got {
                return Err(BackendError::Shape { what, expected, got });
            }
            let index = |id: &u32| usize::try_from(*id).unwrap_or(usize::MAX);
            let weighted: Vec<(usize, f32)> = match mix {
                TokenMix::Sparse { ids, weights } => {
                    ids.iter().map(index).zip(weights.iter().copied()).collect()
                }
                TokenMix::Dense(weights) => weights.iter().copied().enumerate().collect(),
            };
            out.append(&mut self.weighted_sum(&weighted));
        }
        Ok(out)
    }

    /// The sum of rows, each times its weight.
    fn weighted_sum(&self, weighted: &[(usize, f32)]) -> Vec<f32> {
        let width = self.hidden_dim();
        let sum = |part: &[(usize, f32)]| {
            let (mut sum, mut row) = (vec![0.0_f32; width], vec![0.0; width]);
            for &(index, weight) in part {
                if weight != 0.0 && self.embeddings.unpack(index, &mut row) {
                    add_scaled(&mut sum, &row, weight);
                }
            }
            sum
        };
        let add = |mut a: Vec<f32>, b: Vec<f32>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        };
        weighted.par_chunks(BLOCK_ROWS).map(sum).reduce(|| vec![0.0; width], add)
    }

    /// Mean L2 norm of the input embeddings.
    pub(crate) fn mean_embedding_norm(&self) -> f32 {
        let rows = self.embeddings.rows();
        let norm = |row: &mut Vec<f32>, index| {
            row.resize(self.hidden_dim(), 0.0);
            self.embeddings.unpack(index, row);
            row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
        };
        let sum: f64 = (0..rows).into_par_iter().map_init(Vec::new, norm).sum();
        narrowed(sum / f64::from(u32::try_from(rows).unwrap_or(u32::MAX)))
    }

    /// `E_out^T E_out` and `E_out^T E_in`, summed in f64.
    pub(crate) fn realignment_products(&self) -> RealignmentProducts {
        let width = self.hidden_dim();
        let outer = |(mut gram, mut cross): (Vec<f64>, Vec<f64>), index: usize| {
            let (mut output, mut input) = (vec![0.0; width], vec![0.0; width]);
            self.head.unpack(index, &mut output);
            self.embeddings.unpack(index, &mut input);
            for (sums, values) in [(&mut gram, &output), (&mut cross, &input)] {
                for (sums, factor) in sums.chunks_exact_mut(width).zip(&output) {
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum += f64::from(*factor) * f64::from(*value);
                    }
                }
            }
            (gram, cross)
        };
        let none = || (vec![0.0; width * width], vec![0.0; width * width]);
        let add = |(mut gram, mut cross): (Vec<f64>, Vec<f64>),
                   (other_gram, other_cross): (Vec<f64>, Vec<f64>)| {
            gram.iter_mut().zip(other_gram).for_each(|(a, b)| *a += b);
            cross.iter_mut().zip(other_cross).for_each(|(a, b)| *a += b);
            (gram, cross)
        };
        let rows = self.head.rows().min(self.embeddings.rows());
        let (gram, cross) =
            (0..rows).into_par_iter().with_min_len(BLOCK_ROWS).fold(none, outer).reduce(none, add);
        RealignmentProducts { gram, cross }
    }
}

#[allow(clippy::as_conversions, reason = "a norm, to the precision of its elements")]
fn narrowed(value: f64) -> f32 {
    value as f32
}
