//! Grouped-query attention over the KV cache.

use avp_backend::BackendError;
use candle_core::{D, DType, Device, Result, Tensor};

use super::flash::{self, Attend};
use super::layers::{Linear, RmsNorm};
use super::rotations::Rotations;
use crate::cache::KvCache;
use crate::config::{DecoderConfig, LayerConfig};
use crate::weights::Weights;

/// Keys from which on the softmax of a single query takes a GPU several operations.
const WIDE: usize = 2048;

/// Attention of one layer.
#[derive(Debug)]
pub(crate) struct Attention {
    /// Queries, keys and values, side by side.
    qkv: Linear,
    o: Linear,
    norms: Option<(RmsNorm, RmsNorm)>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    softcap: Option<f64>,
    layer: LayerConfig,
}

impl Attention {
    pub(crate) fn load(
        weights: &mut Weights<'_>,
        name: &str,
        config: &DecoderConfig,
        layer: LayerConfig,
        activations: DType,
    ) -> std::result::Result<Self, BackendError> {
        let (hidden, head_dim) = (config.hidden, config.head_dim);
        // Bounded by the config's checks.
        let (q_width, kv_width) = (config.heads * head_dim, config.kv_heads * head_dim);
        let map = |part: &str, output| (format!("{name}.{part}"), output);
        let qkv = [map("q_proj", q_width), map("k_proj", kv_width), map("v_proj", kv_width)];
        let qkv = Linear::load(weights, &qkv, hidden, config.qkv_bias, activations)?;
        let o = Linear::load(weights, &[map("o_proj", hidden)], q_width, config.o_bias, activations)?;
        let mut norm =
            |part: &str| RmsNorm::load(weights, &format!("{name}.{part}"), head_dim, config, activations);
        let norms = if config.qk_norm { Some((norm("q_norm")?, norm("k_norm")?)) } else { None };
        Ok(Self {
            qkv,
            o,
            norms,
            head_dim,
            layer,
            heads: config.heads,
            kv_heads: config.kv_heads,
            scale: f64::from(config.attn_scale),
            softcap: config.attn_softcap.map(f64::from),
        })
    }

    /// Elements of its matrices.
    pub(crate) fn matrices(&self) -> usize {
        self.qkv.matrix() + self.o.matrix()
    }

    /// Attends from `x [n, hidden]` to all cached positions before and to `x` itself, whose keys and values are
    /// written to layer `index` of `cache`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        index: usize,
        cache: &mut KvCache,
        step: &Step,
    ) -> Result<Tensor> {
        let n = x.dim(0)?;
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        let qkv = self.qkv.forward(x)?.reshape((1, n, heads + 2 * kv_heads, self.head_dim))?;
        let v = qkv.narrow(2, heads + kv_heads, kv_heads)?;
        let (q, k) = match &self.norms {
            // One rotation for both: they lie side by side.
            None => {
                let qk = step.rotate(&qkv.narrow(2, 0, heads + kv_heads)?, self.layer.rope)?;
                (qk.narrow(1, 0, heads)?, qk.narrow(1, heads, kv_heads)?)
            }
            Some((q_norm, k_norm)) => {
                let q = q_norm.forward(&qkv.narrow(2, 0, heads)?)?;
                let k = k_norm.forward(&qkv.narrow(2, heads, kv_heads)?)?;
                (step.rotate(&q, self.layer.rope)?, step.rotate(&k, self.layer.rope)?)
            }
        };
        let stored = cache.shape().dtype;
        cache.write(index, step.start, &k.to_dtype(stored)?, &v.transpose(1, 2)?.to_dtype(stored)?)?;

        let view = step.view(self.layer.window)?;
        let kv = cache.layer(index)?;
        let read = |t: &Tensor| t.narrow(2, view.first, view.keys)?.to_dtype(x.dtype());
        let (k, v) = (read(&kv.k)?, read(&kv.v)?);
        let mixed = if step.flash {
            let Self { scale, softcap, .. } = *self;
            Attend { scale, softcap, window: self.layer.window }.run(&q, &k, &v)?
        } else {
            self.attend(&q, &k.squeeze(0)?, &v.squeeze(0)?, view)?
        };
        self.o.forward(&mixed)
    }

    /// Attends from `q [1, heads, n, head_dim]` to `k` and `v` `[kv_heads, keys, head_dim]`: `[n, heads * head_dim]`.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, view: &View) -> Result<Tensor> {
        let (n, dtype) = (q.dim(2)?, q.dtype());
        // Queries of one KV head form one matrix, so that keys and values are not repeated.
        let group = self.heads / self.kv_heads;
        // Scaled before the product, whose sums may be too large for f16.
        let q = (q.reshape((self.kv_heads, group * n, self.head_dim))? * self.scale)?;
        let mut scores = q.matmul(&k.transpose(1, 2)?)?;
        if let Some(cap) = self.softcap {
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        let mut scores = scores.reshape((self.kv_heads, group, n, view.keys))?.to_dtype(DType::F32)?;
        if let Some(mask) = &view.mask {
            scores = scores.broadcast_add(mask)?;
        }
        let probs = softmax(&scores)?.to_dtype(dtype)?;
        let mixed = probs.reshape((self.kv_heads, group * n, view.keys))?.matmul(v)?;
        let mixed = mixed.reshape((self.heads, n, self.head_dim))?.transpose(0, 1)?.contiguous()?;
        mixed.reshape((n, self.heads * self.head_dim))
    }
}

/// Over the last dimension of `[kv_heads, group, n, keys]`.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    // The one operation has one warp of a GPU for each row, which is little for few long ones.
    let (_, _, n, keys) = scores.dims4()?;
    if scores.device().is_cuda() && n == 1 && keys > WIDE {
        candle_nn::ops::softmax(scores, D::Minus1)
    } else {
        candle_nn::ops::softmax_last_dim(scores)
    }
}

/// What all layers share in one pass over `n` positions from `start` on.
pub(crate) struct Step {
    start: usize,
    /// Cosines and sines `[n, head_dim / 2]` of each kind of rotary embedding.
    rotations: Vec<(Tensor, Tensor)>,
    views: Vec<View>,
    /// Whether flash attention takes it.
    flash: bool,
}

/// What the queries of a pass see of the cache under one sliding window, or under none.
struct View {
    window: Option<usize>,
    /// First position that any query sees; those before are not read.
    first: usize,
    /// Positions from there on.
    keys: usize,
    /// What to add to scores `[.., n, keys]`: 0 where a query sees a key, else minus infinity. None if all see
    /// all.
    mask: Option<Tensor>,
}

impl Step {
    pub(crate) fn new(
        start: usize,
        n: usize,
        config: &DecoderConfig,
        rotations: &Rotations,
        (device, activations): (&Device, DType),
    ) -> Result<Self> {
        let rotations = rotations.of(&config.ropes, start, n, device)?;
        // Its kernels give each head of a single query one block of the device, which leaves most of it idle.
        let flash = n > 1 && flash::takes(device, activations, config.head_dim);
        let mut views: Vec<View> = Vec::new();
        for layer in &config.layers {
            if views.iter().all(|v| v.window != layer.window) {
                let mut view = View::new(layer.window, start, n);
                if !flash {
                    view.mask = view.mask(start, n, device)?;
                }
                views.push(view);
            }
        }
        Ok(Self { start, rotations, views, flash })
    }

    fn view(&self, window: Option<usize>) -> Result<&View> {
        match self.views.iter().find(|v| v.window == window) {
            Some(view) => Ok(view),
            None => candle_core::bail!("no mask for a window of {window:?}"),
        }
    }

    /// Rotates `x [1, n, heads, head_dim]` into `[1, heads, n, head_dim]`, in f32.
    fn rotate(&self, x: &Tensor, rope: usize) -> Result<Tensor> {
        let Some((cos, sin)) = self.rotations.get(rope) else {
            candle_core::bail!("rotary embedding {rope} of {}", self.rotations.len());
        };
        let by_head = x.transpose(1, 2)?.to_dtype(DType::F32)?.contiguous()?;
        candle_nn::rotary_emb::rope(&by_head, cos, sin)?.to_dtype(x.dtype())
    }
}

impl View {
    /// Without its mask.
    fn new(window: Option<usize>, start: usize, n: usize) -> Self {
        let first = first_seen(window, start);
        Self { window, first, keys: start + n - first, mask: None }
    }

    fn mask(&self, start: usize, n: usize, device: &Device) -> Result<Option<Tensor>> {
        if n == 1 {
            return Ok(None);
        }
        // Where no window ends, all see what is before the pass, and only what it adds itself goes to the device.
        let ends = first_seen(self.window, start + n - 1) > 0;
        let (first, keys) = if ends { (self.first, self.keys) } else { (start, n) };
        let mut mask = vec![f32::NEG_INFINITY; n * keys];
        for (query, row) in (start..).zip(mask.chunks_exact_mut(keys)) {
            if let Some(seen) = row.get_mut(first_seen(self.window, query).max(first) - first..=query - first)
            {
                seen.fill(0.0);
            }
        }
        let mask = Tensor::from_vec(mask, (n, keys), device)?;
        Ok(Some(mask.pad_with_zeros(1, self.keys - keys, 0)?))
    }
}

/// The first key that a query sees: key `k` if `query - window < k <= query`.
fn first_seen(window: Option<usize>, query: usize) -> usize {
    window.map_or(0, |window| (query + 1).saturating_sub(window))
}

/// The last of `[n, width]`, `[1, width]`.
pub(crate) fn last_row(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(0)?;
    x.narrow(0, n.saturating_sub(1), 1)?.contiguous()
}
