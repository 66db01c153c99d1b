//! Slabs cut out of a cache and put into one: `[kv_heads, tokens, head_dim]` planes of different token counts.

use core::ops::Range;

use super::{Manifest, SlabError, SlabId};
use crate::header::to_usize;
use crate::kv::{KvHeader, KvPayload};

impl Manifest {
    /// Writes the payload of slab `id` of `cache`, header and planes, to `out`.
    ///
    /// # Errors
    /// `OffGrid`; `Header` if `cache` is not the manifest's; `BufferLength`; `Kv` where the slab cannot be addressed.
    pub fn extract(&self, cache: &KvPayload, id: &SlabId, out: &mut [u8]) -> Result<(), SlabError> {
        self.check_cache(id, cache.header())?;
        let slab = self.slab_header(id);
        check_len(&slab, out.len())?;
        slab.write_to(out)?;
        for (whole, part) in self.runs(id) {
            if let (Some(from), Some(to)) = (cache.as_bytes().get(whole), out.get_mut(part)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// Copies a slab to its place in `cache`, a payload of the manifest's header and planes.
    ///
    /// # Errors
    /// `OffGrid`; `Header` if `slab` has another shape than `id`; `BufferLength`.
    pub fn place(&self, id: &SlabId, slab: &KvPayload, cache: &mut [u8]) -> Result<(), SlabError> {
        self.check_cache(id, &self.kv)?;
        let (expected, got) = (self.slab_header(id), *slab.header());
        if expected != got {
            return Err(SlabError::Header { id: *id, expected, got });
        }
        check_len(&self.kv, cache.len())?;
        for (whole, part) in self.runs(id) {
            if let (Some(from), Some(to)) = (slab.as_bytes().get(part), cache.get_mut(whole)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn check_cache(&self, id: &SlabId, cache: &KvHeader) -> Result<(), SlabError> {
        if self.index(id).is_none() {
            return Err(SlabError::OffGrid(*id));
        }
        if *cache != self.kv {
            return Err(SlabError::Header { id: *id, expected: self.kv, got: *cache });
        }
        Ok(())
    }

    /// Where the bytes of slab `id` are: in the payload of the whole cache, header included, and in its own. A run is a
    /// plane where the slab has all tokens, else the tokens of one head.
    pub fn runs(&self, id: &SlabId) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let (whole, part, id) = (self.kv, self.slab_header(id), *id);
        let token = to_usize(whole.head_dim).saturating_mul(whole.dtype.size());
        let (heads, run) = match id.tokens == whole.seq_len {
            true => (1, to_usize(whole.num_kv_heads).saturating_mul(to_usize(whole.seq_len))),
            false => (to_usize(whole.num_kv_heads), to_usize(id.tokens)),
        };
        let (stride, run) = (to_usize(whole.seq_len).saturating_mul(token), run.saturating_mul(token));
        let skip = to_usize(id.first_token).saturating_mul(token);
        let planes = move |layer: u32| {
            let from = id.first_layer.saturating_add(layer);
            let k = whole.k_range(from).zip(part.k_range(layer));
            let v = whole.v_range(from).zip(part.v_range(layer));
            [k, v].into_iter().flatten()
        };
        (0..id.layers).flat_map(planes).flat_map(move |(whole, part)| {
            (0..heads).map(move |head| {
                let from = whole.start.saturating_add(head.saturating_mul(stride)).saturating_add(skip);
                let to = part.start.saturating_add(head.saturating_mul(run));
                (from..from.saturating_add(run), to..to.saturating_add(run))
            })
        })
    }
}

fn check_len(header: &KvHeader, got: usize) -> Result<(), SlabError> {
    let expected = header.payload_len()?;
    if expected == got { Ok(()) } else { Err(SlabError::BufferLength { expected, got }) }
}
