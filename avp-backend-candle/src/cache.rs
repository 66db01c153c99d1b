//! The KV cache of one sequence: preallocated, appended in place, shared between forks until one writes.

use std::ops::Range;
use std::sync::Arc;

use avp_backend::Filled;
use candle_core::{DType, Device, Result, Tensor};

/// Sizes of a cache.
#[derive(Clone, Debug)]
pub(crate) struct CacheShape {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) dtype: DType,
    pub(crate) device: Device,
    /// What moves it to the host and back, where the device is a GPU.
    #[cfg(feature = "cuda")]
    pub(crate) transfers: Option<Arc<crate::cuda::Transfers>>,
}

/// Keys and values of one layer, each `[1, kv_heads, capacity, head_dim]`.
///
/// The tensors of a `LayerKv` are written in place, so they are never handed out but as views that live within
/// one call.
#[derive(Debug)]
pub(crate) struct LayerKv {
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

impl LayerKv {
    fn zeros(shape: &CacheShape, capacity: usize) -> Result<Self> {
        let dims = (1, shape.kv_heads, capacity, shape.head_dim);
        probe(shape, 1, capacity)?;
        Ok(Self {
            k: Tensor::zeros(dims, shape.dtype, &shape.device)?,
            v: Tensor::zeros(dims, shape.dtype, &shape.device)?,
        })
    }

    /// A copy with room for `capacity` positions, of which the first `used` are taken over.
    fn copied(&self, shape: &CacheShape, capacity: usize, used: usize) -> Result<Self> {
        let new = Self::zeros(shape, capacity)?;
        if used > 0 {
            new.k.slice_set(&self.k.narrow(2, 0, used)?.contiguous()?, 2, 0)?;
            new.v.slice_set(&self.v.narrow(2, 0, used)?.contiguous()?, 2, 0)?;
        }
        Ok(new)
    }
}

/// Asks for the memory of so many layers first, since a failed allocation inside of candle would abort; on a processor, since
/// elsewhere it is an error.
fn probe(shape: &CacheShape, layers: usize, capacity: usize) -> Result<()> {
    let bytes = [layers, 2, shape.kv_heads, shape.head_dim, shape.dtype.size_in_bytes()]
        .into_iter()
        .try_fold(capacity, usize::checked_mul);
    let on_host = shape.device.is_cpu();
    let fits = bytes.is_some_and(|b| !on_host || Vec::<u8>::new().try_reserve_exact(b).is_ok());
    if !fits {
        candle_core::bail!("no memory for a KV cache of {capacity} tokens; ask for fewer");
    }
    Ok(())
}

/// The KV cache of all layers.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    shape: CacheShape,
    /// A layer takes memory when it is first written: a context that is announced and does not come costs none.
    layers: Vec<Option<Arc<LayerKv>>>,
    /// What each layer holds; at least [`len`](Self::len) positions, more while an import is under way.
    filled: Vec<Filled>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache with room for `capacity` positions.
    pub(crate) fn new(shape: CacheShape, capacity: usize) -> Result<Self> {
        probe(&shape, shape.layers, capacity)?;
        let layers = vec![None; shape.layers];
        Ok(Self { filled: vec![Filled::default(); layers.len()], layers, shape, len: 0, capacity })
    }

    pub(crate) fn shape(&self) -> &CacheShape {
        &self.shape
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes room for `total` positions, now and in every layer.
    pub(crate) fn grow(&mut self, total: usize) -> Result<()> {
        if total <= self.capacity {
            return Ok(());
        }
        probe(&self.shape, self.layers.len(), total)?;
        let grown = |(layer, filled): (&Option<Arc<LayerKv>>, &Filled)| {
            let copied =
                |layer: &Arc<LayerKv>| layer.copied(&self.shape, total, filled.reach()).map(Arc::new);
            layer.as_ref().map(copied).transpose()
        };
        self.layers = self.layers.iter().zip(&self.filled).map(grown).collect::<Result<Vec<_>>>()?;
        self.capacity = total;
        Ok(())
    }

    /// Positions that layer `index` holds without a gap.
    pub(crate) fn filled(&self, index: usize) -> usize {
        self.filled.get(index).map_or(0, Filled::prefix)
    }

    /// Layer `index` for reading.
    pub(crate) fn layer(&self, index: usize) -> Result<&LayerKv> {
        match self.layers.get(index) {
            Some(Some(layer)) => Ok(layer),
            Some(None) => candle_core::bail!("layer {index} holds nothing yet"),
            None => candle_core::bail!("layer {index} of {}", self.layers.len()),
        }
    }

    /// Layer `index` for writing: its own copy if forks share it.
    pub(crate) fn layer_mut(&mut self, index: usize) -> Result<&LayerKv> {
        let used = self.filled.get(index).map_or(0, Filled::reach);
        let capacity = self.capacity;
        let Some(layer) = self.layers.get_mut(index) else {
            candle_core::bail!("layer {index} is out of range");
        };
        match layer {
            Some(own) if Arc::strong_count(own) == 1 => {}
            Some(shared) => *shared = Arc::new(shared.copied(&self.shape, capacity, used)?),
            None => *layer = Some(Arc::new(LayerKv::zeros(&self.shape, capacity)?)),
        }
        self.layer(index)
    }

    /// Writes keys and values `[1, kv_heads, n, head_dim]` of layer `index` at position `at`. The length stays
    /// until [`set_len`](Self::set_len).
    pub(crate) fn write(&mut self, index: usize, at: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let layer = self.layer_mut(index)?;
        layer.k.slice_set(&k.contiguous()?, 2, at)?;
        layer.v.slice_set(&v.contiguous()?, 2, at)
    }

    /// Every layer now holds `len` positions and no more.
    pub(crate) fn set_len(&mut self, len: usize) {
        self.len = len;
        self.filled.fill(Filled::prefix_of(len));
    }

    /// Layer `index` holds `run` too; the cache is as long as its shortest layer.
    pub(crate) fn fill(&mut self, index: usize, run: &Range<usize>) {
        if let Some(filled) = self.filled.get_mut(index) {
            filled.add(run);
        }
        self.len = self.filled.iter().map(Filled::prefix).min().unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> CacheShape {
        CacheShape {
            layers: 3,
            kv_heads: 1,
            head_dim: 2,
            dtype: DType::F32,
            device: Device::Cpu,
            #[cfg(feature = "cuda")]
            transfers: None,
        }
    }

    fn cache() -> KvCache {
        KvCache::new(shape(), 4).unwrap()
    }

    fn there(cache: &KvCache) -> Vec<usize> {
        (0..3).filter(|&index| cache.layer(index).is_ok()).collect()
    }

    #[test]
    fn a_layer_takes_memory_when_it_is_written_also_where_the_cache_grows() {
        let mut cache = cache();
        assert!(there(&cache).is_empty());
        cache.layer_mut(1).unwrap();
        cache.grow(8).unwrap();
        assert_eq!(there(&cache), [1]);
        assert_eq!(cache.layer(1).unwrap().k.dims4().unwrap(), (1, 1, 8, 2));
    }

    #[test]
    fn a_fork_shares_a_layer_until_one_of_them_writes_it() {
        let mut cache = cache();
        let ones = Tensor::ones((1, 1, 1, 2), DType::F32, &Device::Cpu).unwrap();
        cache.write(0, 0, &ones, &ones).unwrap();
        cache.fill(0, &(0..1));
        let mut fork = cache.clone();
        let same = |a: &KvCache, b: &KvCache| std::ptr::eq(a.layer(0).unwrap(), b.layer(0).unwrap());
        assert!(same(&cache, &fork));
        fork.write(0, 1, &ones, &ones).unwrap();
        assert!(!same(&cache, &fork));
        let first =
            |cache: &KvCache| cache.layer(0).unwrap().k.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(first(&fork)[..4], [1.0; 4]);
        assert_eq!(first(&cache)[..4], [1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn a_cache_beyond_all_memory_is_refused_before_anything_is_taken() {
        assert!(KvCache::new(shape(), usize::MAX / 8).unwrap_err().to_string().contains("ask for fewer"));
    }
}
