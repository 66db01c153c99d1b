//! Attention by the kernels of flash attention: on a GPU, in half types, with the feature `flash-attn`.

#[cfg(feature = "flash-attn")]
use candle_core::DType;
use candle_core::{Device, Result, Tensor};

/// Multiples of this many dimensions of a head, up to [`MOST`], have kernels.
#[cfg(feature = "flash-attn")]
const UNIT: usize = 8;
#[cfg(feature = "flash-attn")]
const MOST: usize = 256;

/// How queries attend.
#[cfg_attr(not(feature = "flash-attn"), allow(dead_code))]
pub(super) struct Attend {
    pub(super) scale: f64,
    pub(super) softcap: Option<f64>,
    /// Positions that a query sees, its own among them.
    pub(super) window: Option<usize>,
}

/// Whether there are kernels for caches of this type.
#[cfg(feature = "flash-attn")]
pub(super) fn takes(device: &Device, dtype: DType, head_dim: usize) -> bool {
    let half = matches!(dtype, DType::F16 | DType::BF16);
    device.is_cuda() && half && head_dim <= MOST && head_dim.is_multiple_of(UNIT)
}

#[cfg(not(feature = "flash-attn"))]
pub(super) fn takes(_: &Device, _: candle_core::DType, _: usize) -> bool {
    false
}

impl Attend {
    /// Attends from `q [1, heads, n, head_dim]`, the last `n` of the positions of `k` and `v` `[1, kv_heads, keys, head_dim]`, to these
    /// and what is before each: `[n, heads * head_dim]`. None of the tensors need be contiguous but in its last dimension.
    #[cfg(feature = "flash-attn")]
    pub(super) fn run(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (_, heads, n, head_dim) = q.dims4()?;
        let by_position = |t: &Tensor| t.transpose(1, 2);
        let before = self.window.map(|window| window.saturating_sub(1));
        // A cap of zero is none.
        let mixed = candle_flash_attn::flash_attn_alibi_windowed_softcap(
            &by_position(q)?,
            &by_position(k)?,
            &by_position(v)?,
            None,
            self.scale as f32,
            before,
            Some(0),
            self.softcap.unwrap_or(0.0) as f32,
        )?;
        mixed.reshape((n, heads * head_dim))
    }

    #[cfg(not(feature = "flash-attn"))]
    pub(super) fn run(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Tensor> {
        candle_core::bail!("flash attention needs a build with the feature `flash-attn`")
    }
}
