//! The decoder: embedding, layers, final norm, output head.

mod attention;
mod flash;
mod latent;
mod layers;
mod rotations;

#[cfg(feature = "cuda")]
use std::sync::Arc;
use std::sync::Mutex;

use avp_backend::BackendError;
use candle_core::{DType, Device, Result, Tensor};

use crate::cache::{CacheShape, KvCache};
use crate::config::DecoderConfig;
use crate::error::engine;
use crate::weights::Weights;
use attention::{Attention, Step};
use latent::DeviceProjection;
pub(crate) use layers::product;
use layers::{Mlp, RmsNorm};
use rotations::Rotations;

/// Positions computed at a time: bounds the memory of attention scores.
const CHUNK: usize = 512;

/// Which hidden states a pass returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Last,
    All,
}

#[derive(Debug)]
struct Layer {
    attention: Attention,
    mlp: Mlp,
    before_attention: RmsNorm,
    after_attention: Option<RmsNorm>,
    before_mlp: RmsNorm,
    after_mlp: Option<RmsNorm>,
}

/// A decoder with its weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) config: DecoderConfig,
    pub(crate) device: Device,
    /// Type of weights and KV cache.
    pub(crate) dtype: DType,
    /// Type of activations: f32 on the CPU, the weights' type elsewhere.
    activations: DType,
    /// Input embeddings `[vocab, hidden]`.
    pub(crate) embed: Tensor,
    /// Output head `[vocab, hidden]` if it is not the input embeddings.
    head: Option<Tensor>,
    layers: Vec<Layer>,
    norm: RmsNorm,
    rotations: Rotations,
    /// The projection of the latent steps before, where the model computes.
    projection: Mutex<Option<DeviceProjection>>,
    #[cfg(feature = "cuda")]
    pub(crate) transfers: Option<Arc<crate::cuda::Transfers>>,
}

impl Decoder {
    pub(crate) fn load(
        config: DecoderConfig,
        mut weights: Weights<'_>,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, BackendError> {
        let w = &mut weights;
        let activations = if device.is_cpu() { DType::F32 } else { dtype };
        let table = [config.vocab, config.hidden];
        let embed = w.get("model.embed_tokens.weight", &table)?;
        let layers = (0..config.layers.len())
            .map(|i| Layer::load(w, &config, i, activations))
            .collect::<std::result::Result<_, _>>()?;
        let norm = RmsNorm::load(w, "model.norm", config.hidden, &config, activations)?;
        let head = if config.tied { None } else { Some(w.get("lm_head.weight", &table)?) };
        weights.finish(|name| {
            name.ends_with(".rotary_emb.inv_freq") || (config.tied && name == "lm_head.weight")
        })?;
        #[cfg(feature = "cuda")]
        let transfers = match device {
            Device::Cuda(device) => Some(Arc::new(crate::cuda::Transfers::new(device).map_err(engine)?)),
            _ => None,
        };
        Ok(Self {
            device: device.clone(),
            config,
            dtype,
            activations,
            embed,
            head,
            layers,
            norm,
            rotations: Rotations::default(),
            projection: Mutex::default(),
            #[cfg(feature = "cuda")]
            transfers,
        })
    }

    /// Bytes of the layers' matrices and of the output head.
    pub(crate) fn decode_bytes(&self) -> usize {
        let matrices = |layer: &Layer| layer.attention.matrices() + layer.mlp.matrices();
        let layers: usize = self.layers.iter().map(matrices).sum();
        (layers + self.head().elem_count()) * self.dtype.size_in_bytes()
    }

    /// The output head `[vocab, hidden]`.
    pub(crate) fn head(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// An empty cache.
    pub(crate) fn new_cache(&self, capacity: usize) -> std::result::Result<KvCache, BackendError> {
        let shape = CacheShape {
            layers: self.layers.len(),
            kv_heads: self.config.kv_heads,
            head_dim: self.config.head_dim,
            dtype: self.dtype,
            device: self.device.clone(),
            #[cfg(feature = "cuda")]
            transfers: self.transfers.clone(),
        };
        KvCache::new(shape, capacity).map_err(engine)
    }

    /// Input embeddings `[n, hidden]` of `ids`, as layer 0 takes them.
    pub(crate) fn embed_tokens(&self, ids: &[u32]) -> Result<Tensor> {
        let ids = Tensor::from_slice(ids, ids.len(), &self.device)?;
        let rows = self.embed.index_select(&ids, 0)?.to_dtype(self.activations)?;
        match self.embed_scale() {
            Some(scale) => rows * f64::from(scale),
            None => Ok(rows),
        }
    }

    /// Factor on embeddings, rounded to the weights' type as `transformers` does.
    pub(crate) fn embed_scale(&self) -> Option<f32> {
        self.config.embed_scale.map(|scale| match self.dtype {
            DType::BF16 => half::bf16::from_f32(scale).to_f32(),
            DType::F16 => half::f16::from_f32(scale).to_f32(),
            _ => scale,
        })
    }

    /// Tensor of hidden states or embeddings `[n, hidden]` from the caller's f32.
    pub(crate) fn activations(&self, values: &[f32]) -> Result<Tensor> {
        let n = values.len() / self.config.hidden;
        Tensor::from_slice(values, (n, self.config.hidden), &self.device)?.to_dtype(self.activations)
    }

    /// Runs `x [n, hidden]` through all layers, behind the `start` positions of `cache`, and returns hidden states
    /// after the final norm, row-major. The cache must have room; it grows longer only if all goes well.
    /// `before_layer` sees to it that a layer holds those positions.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        start: usize,
        cache: &mut KvCache,
        keep: Keep,
        before_layer: &mut dyn FnMut(usize, &mut KvCache) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let n = x.dim(0)?;
        let mut hidden = Vec::new();
        // candle's kernels count the scores of a chunk in 32 bits.
        let most = i32::MAX as usize / self.config.heads.saturating_mul(start + n).max(1);
        let length = CHUNK.min(most).max(1);
        for at in (0..n).step_by(length) {
            let chunk = x.narrow(0, at, length.min(n - at))?;
            let last = at + length >= n;
            let y = self.forward_chunk(chunk, start + at, cache, before_layer)?;
            match keep {
                Keep::All => hidden.append(&mut self.finish(&y)?),
                Keep::Last if last => hidden = self.finish(&attention::last_row(&y)?)?,
                Keep::Last => {}
            }
        }
        cache.set_len(start + n);
        Ok(hidden)
    }

    fn forward_chunk(
        &self,
        mut x: Tensor,
        start: usize,
        cache: &mut KvCache,
        before_layer: &mut dyn FnMut(usize, &mut KvCache) -> Result<()>,
    ) -> Result<Tensor> {
        let step =
            Step::new(start, x.dim(0)?, &self.config, &self.rotations, (&self.device, self.activations))?;
        for (index, layer) in self.layers.iter().enumerate() {
            before_layer(index, cache)?;
            x = layer.forward(&x, index, cache, &step)?;
        }
        Ok(x)
    }

    fn finish(&self, x: &Tensor) -> Result<Vec<f32>> {
        self.norm.forward(x)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }
}

impl Layer {
    fn load(
        weights: &mut Weights<'_>,
        config: &DecoderConfig,
        index: usize,
        activations: DType,
    ) -> std::result::Result<Self, BackendError> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let Some(layer) = config.layers.get(index) else {
            return Err(BackendError::Engine(format!("no layer {index}")));
        };
        let mut norm = |part: &str| RmsNorm::load(weights, &name(part), config.hidden, config, activations);
        let before_attention = norm("input_layernorm")?;
        let second = norm("post_attention_layernorm")?;
        // In plain decoders post_attention_layernorm stands before the MLP, in Gemma behind attention.
        let (after_attention, before_mlp, after_mlp) = match config.sandwich_norms {
            true => {
                (Some(second), norm("pre_feedforward_layernorm")?, Some(norm("post_feedforward_layernorm")?))
            }
            false => (None, second, None),
        };
        Ok(Self {
            before_attention,
            after_attention,
            before_mlp,
            after_mlp,
            attention: Attention::load(weights, &name("self_attn"), config, *layer, activations)?,
            mlp: Mlp::load(weights, &name("mlp"), config, activations)?,
        })
    }

    fn forward(&self, x: &Tensor, index: usize, cache: &mut KvCache, step: &Step) -> Result<Tensor> {
        let normed = |norm: &Option<RmsNorm>, y: Tensor| match norm {
            Some(norm) => norm.forward(&y),
            None => Ok(y),
        };
        let y = self.attention.forward(&self.before_attention.forward(x)?, index, cache, step)?;
        let x = (x + normed(&self.after_attention, y)?)?;
        let y = self.mlp.forward(&self.before_mlp.forward(&x)?)?;
        x + normed(&self.after_mlp, y)?
    }
}
