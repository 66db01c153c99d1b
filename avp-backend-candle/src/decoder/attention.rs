//! Grouped-query attention over the KV cache.

use avp_backend::BackendError;
use candle_core::{DType, Device, Result, Tensor};

use super::layers::{Linear, RmsNorm};
use crate::cache::KvCache;
use crate::config::{DecoderConfig, LayerConfig, Rope};
use crate::weights::Weights;

/// Attention of one layer.
#[derive(Debug)]
pub(crate) struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
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
        let mut linear = |part: &str, shape, bias| {
            Linear::load(weights, &format!("{name}.{part}"), shape, bias, activations)
        };
        let q = linear("q_proj", (hidden, q_width), config.qkv_bias)?;
        let k = linear("k_proj", (hidden, kv_width), config.qkv_bias)?;
        let v = linear("v_proj", (hidden, kv_width), config.qkv_bias)?;
        let o = linear("o_proj", (q_width, hidden), config.o_bias)?;
        let mut norm = |part: &str| RmsNorm::load(weights, &format!("{name}.{part}"), head_dim, config);
        let norms = if config.qk_norm { Some((norm("q_norm")?, norm("k_norm")?)) } else { None };
        Ok(Self {
            q,
            k,
            v,
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
        let split = |y: Tensor, heads: usize| y.reshape((1, n, heads, self.head_dim));
        let (mut q, mut k) =
            (split(self.q.forward(x)?, self.heads)?, split(self.k.forward(x)?, self.kv_heads)?);
        let v = split(self.v.forward(x)?, self.kv_heads)?;
        if let Some((q_norm, k_norm)) = &self.norms {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        let (q, k) = (step.rotate(&q, self.layer.rope)?, step.rotate(&k, self.layer.rope)?);
        let stored = cache.shape().dtype;
        cache.write(index, step.start, &k.to_dtype(stored)?, &v.transpose(1, 2)?.to_dtype(stored)?)?;

        // Positions that no query of this step sees are not read.
        let seen = self.layer.window.map_or(0, |w| (step.start + 1).saturating_sub(w));
        let total = step.start + n;
        let read = |t: &Tensor| t.squeeze(0)?.narrow(1, seen, total - seen)?.to_dtype(x.dtype());
        let kv = cache.layer(index)?;
        let (k, v) = (read(&kv.k)?, read(&kv.v)?);

        // Queries of one KV head form one matrix, so that keys and values are not repeated.
        let group = self.heads / self.kv_heads;
        let q = q.reshape((self.kv_heads, group * n, self.head_dim))?;
        let mut scores = (q.matmul(&k.transpose(1, 2)?)? * self.scale)?;
        if let Some(cap) = self.softcap {
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        let mut scores = scores.reshape((self.kv_heads, group, n, total - seen))?.to_dtype(DType::F32)?;
        if let Some(mask) = step.mask(self.layer.window, seen)? {
            scores = scores.broadcast_add(&mask)?;
        }
        let probs = candle_nn::ops::softmax_last_dim(&scores)?.to_dtype(x.dtype())?;
        let mixed = probs.reshape((self.kv_heads, group * n, total - seen))?.matmul(&v)?;
        let mixed = mixed.reshape((self.heads, n, self.head_dim))?.transpose(0, 1)?.contiguous()?;
        self.o.forward(&mixed.reshape((n, self.heads * self.head_dim))?)
    }
}

/// What all layers share in one pass over `n` positions.
pub(crate) struct Step {
    pub(crate) start: usize,
    n: usize,
    device: Device,
    /// Cosines and sines `[n, head_dim / 2]` of each kind of rotary embedding.
    rotations: Vec<(Tensor, Tensor)>,
}

impl Step {
    pub(crate) fn new(start: usize, n: usize, ropes: &[Rope], device: &Device) -> Result<Self> {
        let rotation = |rope: &Rope| {
            let (cos, sin) = rope.angles(start, n);
            let shape = (n, rope.inv_freq.len());
            Ok((Tensor::from_vec(cos, shape, device)?, Tensor::from_vec(sin, shape, device)?))
        };
        let rotations = ropes.iter().map(rotation).collect::<Result<Vec<_>>>()?;
        Ok(Self { start, n, device: device.clone(), rotations })
    }

    /// Rotates `x [1, n, heads, head_dim]` into `[1, heads, n, head_dim]`, in f32.
    fn rotate(&self, x: &Tensor, rope: usize) -> Result<Tensor> {
        let Some((cos, sin)) = self.rotations.get(rope) else {
            candle_core::bail!("rotary embedding {rope} of {}", self.rotations.len());
        };
        let by_head = x.transpose(1, 2)?.to_dtype(DType::F32)?.contiguous()?;
        candle_nn::rotary_emb::rope(&by_head, cos, sin)?.to_dtype(x.dtype())
    }

    /// What to add to scores `[.., n, seen..start + n]`: 0 where query `i` sees key `j`, else minus infinity.
    /// None if every query sees every key.
    fn mask(&self, window: Option<usize>, seen: usize) -> Result<Option<Tensor>> {
        if self.n == 1 {
            return Ok(None);
        }
        let width = self.start + self.n - seen;
        let mut mask = vec![0f32; self.n * width];
        for (i, row) in mask.chunks_exact_mut(width).enumerate() {
            let query = self.start + i;
            let first = window.map_or(0, |w| (query + 1).saturating_sub(w)).saturating_sub(seen);
            for (j, m) in row.iter_mut().enumerate() {
                if j < first || j + seen > query {
                    *m = f32::NEG_INFINITY;
                }
            }
        }
        Tensor::from_vec(mask, (self.n, width), &self.device).map(Some)
    }
}

/// The last of `[n, width]`, `[1, width]`.
pub(crate) fn last_row(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(0)?;
    x.narrow(0, n.saturating_sub(1), 1)?.contiguous()
}
