//! Export and import of a KV cache, beside memcpy of the same bytes.

use anyhow::Result;
use avp_backend::{Backend, Context, ContextStamp, KvRange, VerificationPolicy};
use avp_backend_candle::{CandleBackend, LoadOptions};
use avp_wire::{BufferPool, Frame, KvDtype, KvHeader, Metadata, Mode, PayloadType, ext};
use rayon::prelude::*;
use std::cell::RefCell;

use crate::measure::{Side, alternate, seconds};
use crate::report::{Bound, Figure, Group};
use crate::shape::{Shape, uniform};

const ROUNDS: usize = 31;
const TOKENS: u32 = 4096;
const MEMCPY: &str = "memcpy, one thread";
const MEMCPY_ALL: &str = "memcpy, all threads";

/// Export into a warm pooled buffer, import into a warm cache.
pub(crate) fn run() -> Result<Group> {
    let folder = Shape::HALF_B_CACHE.write()?;
    let mut group = Group::new("KV cache of the Qwen2.5-0.5B shape, 4096 tokens");
    for dtype in [KvDtype::F32, KvDtype::Bf16] {
        let options = LoadOptions {
            dtype: Some(dtype),
            cache_dir: Some(folder.path().to_path_buf()),
            ..LoadOptions::default()
        };
        let backend = CandleBackend::load(folder.path(), &options)?;
        one_type(&mut group, &backend, dtype)?;
    }
    group.note(format!("median of {ROUNDS} alternating rounds; memcpy copies the same bytes between warm buffers, the target's from the same pool; the engine copies with all threads of its pool"));
    group.note("export is Context::to_frame; import is Sequence::import_kv into a cache that exists, Context::from_frame allocates and zeroes one first");
    Ok(group)
}

fn one_type(group: &mut Group, backend: &CandleBackend, dtype: KvDtype) -> Result<()> {
    let frame = frame(backend, dtype)?;
    let payload = frame.kv()?;
    let planes = payload.planes();
    let bytes = planes.len();
    let context = Context::from_frame(&frame, backend, VerificationPolicy::Allow)?;
    let pool = BufferPool::new(4 * bytes);
    let stamp = ContextStamp::default();
    let layers = 0..backend.info().identity.num_layers as usize;
    let range = KvRange { layers, tokens: 0..context.len() };
    let sequence = RefCell::new(backend.new_sequence(context.len())?);
    let mut sides: [Side<'_>; 5] = [
        Box::new(|| memcpy(&pool, planes, 1)),
        Box::new(|| memcpy(&pool, planes, rayon::current_num_threads())),
        Box::new(|| seconds(|| Ok(context.to_frame(&stamp, &pool)?))),
        Box::new(|| seconds(|| Ok(sequence.borrow_mut().import_kv(&range, dtype, planes)?))),
        Box::new(|| seconds(|| Ok(Context::from_frame(&frame, backend, VerificationPolicy::Allow)?))),
    ];
    let [one, all, export, import, fresh] = &alternate(ROUNDS, &mut sides)?[..] else { unreachable!() };
    let name = |what: &str| format!("{what}, {dtype:?}, {} MB", bytes / 1_000_000);
    let rate = |what: &str, seconds: &[f64]| Figure::rate(name(what), bytes, seconds);
    group.figures.extend([
        rate("export to a warm pooled buffer", export)
            .speed_beside(MEMCPY, export, one)
            .target(Bound::RatioAtLeast(0.8)),
        rate("export to a warm pooled buffer", export)
            .speed_beside(MEMCPY_ALL, export, all)
            .target(Bound::RatioAtLeast(0.8)),
        rate("import into a warm cache", import).speed_beside(MEMCPY, import, one),
        rate("import as a new context", fresh).speed_beside(MEMCPY, fresh, one),
    ]);
    Ok(())
}

/// Seconds of copying `bytes` into a warm buffer of the pool.
fn memcpy(pool: &BufferPool, bytes: &[u8], threads: usize) -> Result<f64> {
    let mut buffer = pool.get(bytes.len() + KvHeader::SIZE, KvHeader::SIZE);
    let target = &mut buffer[KvHeader::SIZE..];
    seconds(|| {
        if threads == 1 {
            target.copy_from_slice(bytes);
        } else {
            let part = bytes.len().div_ceil(threads);
            target.par_chunks_mut(part).zip(bytes.par_chunks(part)).for_each(|(t, s)| t.copy_from_slice(s));
        }
        std::hint::black_box(&target);
        Ok(())
    })
}

/// A context for `backend` of [`TOKENS`] tokens with random values.
fn frame(backend: &CandleBackend, dtype: KvDtype) -> Result<Frame> {
    let identity = &backend.info().identity;
    let header = KvHeader {
        num_layers: identity.num_layers,
        num_kv_heads: identity.num_kv_heads,
        head_dim: identity.head_dim,
        seq_len: TOKENS,
        dtype,
    };
    let mut payload = vec![0; header.payload_len()?];
    let planes = header.write_to(&mut payload)?;
    // The upper half of an f32 is a bf16 near it, the lower half any small one: all are finite.
    for (place, value) in (0..).zip(planes.chunks_exact_mut(4)) {
        value.copy_from_slice(&uniform(place).to_le_bytes());
    }
    let metadata = Metadata {
        hidden_dim: identity.hidden_dim,
        num_layers: identity.num_layers,
        payload_type: PayloadType::KvCache,
        dtype: dtype.into(),
        mode: Mode::Latent,
        extra: [(ext::MODEL_FAMILY.to_owned(), identity.model_family.clone())].into(),
        ..Metadata::default()
    };
    Ok(Frame::new(metadata, payload))
}
