//! Canonical KV bytes, `[layer][K, V][kv_head][token][head_dim]`, straight from and into the cache.

#![cfg_attr(not(test), deny(clippy::as_conversions))]

use avp_backend::{BackendError, KvRange};
use avp_wire::KvDtype;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::cache::{CacheShape, KvCache};
#[cfg(feature = "cuda")]
use crate::cuda::Transfers;
use crate::error::engine;
use crate::kernels;

#[cfg(target_endian = "big")]
compile_error!("canonical KV is little-endian and copied as it lies in memory");

/// Type of canonical KV that a cache of `dtype` exports.
pub(crate) fn kv_dtype(dtype: DType) -> KvDtype {
    match dtype {
        DType::F16 => KvDtype::F16,
        DType::BF16 => KvDtype::Bf16,
        _ => KvDtype::F32,
    }
}

/// Writes `range` of `cache` to `out`.
pub(crate) fn export(
    cache: &KvCache,
    range: &KvRange,
    out: &mut [u8],
) -> std::result::Result<(), BackendError> {
    check_range(cache, range, cache.len())?;
    let half = tensor_bytes(cache.shape(), range, kv_dtype(cache.shape().dtype))?;
    check_length("bytes of a KV export", half, range, out.len())?;
    if half == 0 {
        return Ok(());
    }
    #[cfg(feature = "cuda")]
    if let Some(transfers) = &cache.shape().transfers {
        let tensor = |i: usize| {
            let layer = cache.layer(range.layers.start + i / 2)?;
            let tensor = if i.is_multiple_of(2) { &layer.k } else { &layer.v };
            tensor.narrow(2, range.tokens.start, range.tokens.len())
        };
        return transfers.export(out, half, tensor).map_err(engine);
    }
    let large = out.len() >= kernels::LARGE;
    let tensors = out.par_chunks_exact_mut(half).enumerate();
    let copied: Result<()> = tensors
        .map(|(i, out)| {
            let layer = cache.layer(range.layers.start + i / 2)?;
            export_tensor(if i.is_multiple_of(2) { &layer.k } else { &layer.v }, range, out, large)
        })
        .collect();
    copied.map_err(engine)
}

/// Copies the tokens of `range` from `tensor [1, kv_heads, capacity, head_dim]` to `out`.
fn export_tensor(tensor: &Tensor, range: &KvRange, out: &mut [u8], large: bool) -> Result<()> {
    let (_, kv_heads, capacity, head_dim) = tensor.dims4()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("a KV cache on an unknown device") };
    let from = layout.start_offset();
    let size = tensor.dtype().size_in_bytes();
    let bytes: &[u8] = match storage {
        CpuStorage::F32(v) => bytemuck::cast_slice(v),
        CpuStorage::F16(v) => bytemuck::cast_slice(v),
        CpuStorage::BF16(v) => bytemuck::cast_slice(v),
        _ => candle_core::bail!("a KV cache of an unexpected type"),
    };
    let run = range.tokens.len() * head_dim * size;
    for (head, out) in (0..kv_heads).zip(out.chunks_exact_mut(run)) {
        let at = (from + (head * capacity + range.tokens.start) * head_dim) * size;
        match bytes.get(at..at + run) {
            Some(run) => kernels::copy(out, run, large),
            None => candle_core::bail!("a KV cache shorter than its shape"),
        }
    }
    Ok(())
}

/// Checks an import before anything is allocated for it.
pub(crate) fn check_import(
    cache: &KvCache,
    range: &KvRange,
    dtype: KvDtype,
    bytes: usize,
) -> std::result::Result<(), BackendError> {
    // Beyond the room that was asked for, a layer grows at its end only; how far is not limited here.
    let filled = range.layers.clone().map(|layer| cache.filled(layer)).min().unwrap_or(cache.len());
    let reach = filled.max(cache.capacity());
    check_range(cache, range, if range.tokens.start <= reach { usize::MAX } else { reach })?;
    check_length("bytes of a KV import", tensor_bytes(cache.shape(), range, dtype)?, range, bytes)
}

/// Writes canonical `bytes` of `range` into `cache`, which must have room for it, after
/// [`check_import`] allowed it.
pub(crate) fn import(
    cache: &mut KvCache,
    range: &KvRange,
    dtype: KvDtype,
    bytes: &[u8],
) -> std::result::Result<(), BackendError> {
    let half = tensor_bytes(cache.shape(), range, dtype)?;
    if half == 0 {
        return Ok(());
    }
    let large = bytes.len() >= kernels::LARGE;
    #[cfg(feature = "cuda")]
    let transfers = cache.shape().transfers.clone();
    for (layer, bytes) in range.layers.clone().zip(bytes.chunks_exact(half.saturating_mul(2))) {
        let (k, v) = bytes.split_at(half);
        let target = cache.layer_mut(layer).map_err(engine)?;
        for (tensor, bytes) in [(&target.k, k), (&target.v, v)] {
            let runs = WriteRuns {
                range,
                dtype,
                bytes,
                large,
                #[cfg(feature = "cuda")]
                transfers: transfers.as_deref(),
            };
            import_tensor(tensor, &runs).map_err(engine)?;
        }
        cache.fill(layer, &range.tokens);
    }
    Ok(())
}

fn import_tensor(tensor: &Tensor, runs: &WriteRuns<'_>) -> Result<()> {
    // A GPU copies what is of its cache's type; anything else becomes that type there first.
    if tensor.device().is_cpu() || kv_dtype(tensor.dtype()) == runs.dtype {
        return tensor.inplace_op1(runs);
    }
    let (_, kv_heads, _, head_dim) = tensor.dims4()?;
    let host_type = match runs.dtype {
        KvDtype::F32 => DType::F32,
        KvDtype::F16 => DType::F16,
        KvDtype::Bf16 => DType::BF16,
    };
    let tokens = &runs.range.tokens;
    let shape = [1, kv_heads, tokens.len(), head_dim];
    let host = Tensor::from_raw_buffer(runs.bytes, host_type, &shape, &candle_core::Device::Cpu)?;
    tensor.slice_set(&host.to_device(tensor.device())?.to_dtype(tensor.dtype())?, 2, tokens.start)
}

/// Writes the runs of each head into a cache tensor `[1, kv_heads, capacity, head_dim]`.
struct WriteRuns<'a> {
    range: &'a KvRange,
    dtype: KvDtype,
    bytes: &'a [u8],
    /// Whether the whole import is more than the caches hold.
    large: bool,
    #[cfg(feature = "cuda")]
    transfers: Option<&'a Transfers>,
}

impl InplaceOp1 for WriteRuns<'_> {
    fn name(&self) -> &'static str {
        "import-kv"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match storage {
            CpuStorage::F32(v) => self.write(v, layout, KvDtype::F32, |x| x),
            CpuStorage::F16(v) => self.write(v, layout, KvDtype::F16, f16::from_f32),
            CpuStorage::BF16(v) => self.write(v, layout, KvDtype::Bf16, bf16::from_f32),
            _ => candle_core::bail!("a KV cache of an unexpected type"),
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let Some(transfers) = self.transfers else { candle_core::bail!("a KV cache on an unknown GPU") };
        let (_, kv_heads, capacity, head_dim) = layout.shape().dims4()?;
        let run = self.range.tokens.len() * head_dim;
        let start = layout.start_offset() + self.range.tokens.start * head_dim;
        let at = (0..kv_heads).map(|head| start + head * capacity * head_dim);
        match self.dtype {
            KvDtype::F32 => transfers.import::<f32>(storage, self.bytes, run, at),
            KvDtype::F16 => transfers.import::<f16>(storage, self.bytes, run, at),
            KvDtype::Bf16 => transfers.import::<bf16>(storage, self.bytes, run, at),
        }
    }
}

impl WriteRuns<'_> {
    fn write<T: bytemuck::Pod>(
        &self,
        values: &mut [T],
        layout: &Layout,
        own: KvDtype,
        convert: impl Fn(f32) -> T,
    ) -> Result<()> {
        let (_, kv_heads, capacity, head_dim) = layout.shape().dims4()?;
        let run = self.range.tokens.len() * head_dim;
        for (head, source) in (0..kv_heads).zip(self.bytes.chunks_exact(run * self.dtype.size())) {
            let at = layout.start_offset() + (head * capacity + self.range.tokens.start) * head_dim;
            let Some(target) = values.get_mut(at..at + run) else {
                candle_core::bail!("a KV import beyond the cache");
            };
            if self.dtype == own {
                kernels::copy(bytemuck::cast_slice_mut(target), source, self.large);
                continue;
            }
            match self.dtype {
                KvDtype::F32 => assign(target, source, |b| convert(f32::from_le_bytes(b))),
                KvDtype::F16 => assign(target, source, |b| convert(f16::from_le_bytes(b).to_f32())),
                KvDtype::Bf16 => assign(target, source, |b| convert(bf16::from_le_bytes(b).to_f32())),
            }
        }
        Ok(())
    }
}

fn assign<T, const N: usize>(target: &mut [T], source: &[u8], convert: impl Fn([u8; N]) -> T) {
    for (t, s) in target.iter_mut().zip(source.as_chunks::<N>().0) {
        *t = convert(*s);
    }
}

/// Bytes of the K or V tensor of one layer in `range`.
fn tensor_bytes(
    shape: &CacheShape,
    range: &KvRange,
    dtype: KvDtype,
) -> std::result::Result<usize, BackendError> {
    [shape.kv_heads, shape.head_dim, dtype.size()]
        .into_iter()
        .try_fold(range.tokens.len(), usize::checked_mul)
        .ok_or_else(|| {
            BackendError::Engine(format!("{} tokens overflow the address space", range.tokens.len()))
        })
}

fn check_length(
    what: &'static str,
    half: usize,
    range: &KvRange,
    got: usize,
) -> std::result::Result<(), BackendError> {
    match half.checked_mul(2).and_then(|layer| layer.checked_mul(range.layers.len())) {
        Some(expected) if expected == got => Ok(()),
        expected => Err(BackendError::Shape { what, expected: expected.unwrap_or(usize::MAX), got }),
    }
}

/// `range` must lie within the layers and within `tokens` positions.
fn check_range(cache: &KvCache, range: &KvRange, tokens: usize) -> std::result::Result<(), BackendError> {
    let layers = cache.shape().layers;
    let within = |r: &std::ops::Range<usize>, end: usize| r.start <= r.end && r.end <= end;
    if within(&range.layers, layers) && within(&range.tokens, tokens) {
        return Ok(());
    }
    Err(BackendError::KvRange {
        layers: range.layers.clone(),
        tokens: range.tokens.clone(),
        num_layers: layers,
        num_tokens: tokens,
    })
}
