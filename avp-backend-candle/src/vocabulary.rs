//! Products with the embedding tables: logits, mixed embeddings, what realignment is solved from.

use avp_backend::{BackendError, NonFinite, ProjectionError, RealignmentProducts, TokenMix};
use candle_core::{DType, Device, Result, Storage, Tensor};

use crate::decoder::Decoder;
use crate::error::engine;
use crate::kernels::{Soft, Values, mix_dense, mix_many, mix_sparse};
use crate::sequence::check_ids;

/// On a GPU at most this part of the table's rows, one in so many, is gathered and widened for a mix; from there on reading the whole
/// table moves fewer bytes.
const GATHERED: usize = 8;
/// Table rows per step of a pass over a whole table.
const BLOCK_ROWS: usize = 4096;

/// Logits `[n, vocab]` of `hidden [n, hidden]`.
pub(crate) fn logits(model: &Decoder, hidden: &[f32]) -> std::result::Result<Vec<f32>, BackendError> {
    let width = model.config.hidden;
    if !hidden.len().is_multiple_of(width) {
        let expected = hidden.len().next_multiple_of(width);
        return Err(BackendError::Shape { what: "hidden states", expected, got: hidden.len() });
    }
    if hidden.is_empty() {
        return Ok(Vec::new());
    }
    let compute = || model.logits(&model.activations(hidden)?)?.flatten_all()?.to_vec1();
    compute().map_err(engine)
}

/// Softmax of the logits of one hidden state and the input embeddings that it weighs, in one pass over a tied
/// table on the CPU; nothing elsewhere.
pub(crate) fn soft_embedding(
    model: &Decoder,
    hidden: &[f32],
    left_out: f32,
) -> std::result::Result<Option<Vec<f32>>, ProjectionError> {
    let (expected, got) = (model.config.hidden, hidden.len());
    if expected != got {
        return Err(BackendError::Shape { what: "hidden state", expected, got }.into());
    }
    let (storage, layout) = model.embed.storage_and_layout();
    let Storage::Cpu(table) = &*storage else { return Ok(None) };
    if !model.config.tied {
        return Ok(None);
    }
    let table = Values::new(table, layout).map_err(engine)?;
    let soft = Soft { x: hidden, cap: model.config.logit_softcap, left_out };
    let mut out = soft.embedding(&table).ok_or(NonFinite)?;
    if let Some(scale) = model.embed_scale() {
        out.iter_mut().for_each(|x| *x *= scale);
    }
    Ok(Some(out))
}

/// One weighted sum of input embeddings per mix, `[mixes, hidden]`.
pub(crate) fn embed_mix(
    model: &Decoder,
    mixes: &[TokenMix<'_>],
) -> std::result::Result<Vec<f32>, BackendError> {
    for mix in mixes {
        check_mix(model, mix)?;
    }
    let mut out = match many_mixes(model, mixes).map_err(engine)? {
        Some(rows) => rows,
        None => {
            let rows: Result<Vec<_>> = mixes.iter().map(|mix| one_mix(model, mix)).collect();
            rows.map_err(engine)?.concat()
        }
    };
    if let Some(scale) = model.embed_scale() {
        out.iter_mut().for_each(|x| *x *= scale);
    }
    Ok(out)
}

fn check_mix(model: &Decoder, mix: &TokenMix<'_>) -> std::result::Result<(), BackendError> {
    let (what, expected, got) = match mix {
        TokenMix::Sparse { ids, weights } => {
            check_ids(model, ids)?;
            ("weights of a sparse mix", ids.len(), weights.len())
        }
        TokenMix::Dense(weights) => {
            ("weights of a dense mix", weights.len().min(model.config.vocab), weights.len())
        }
    };
    if expected == got { Ok(()) } else { Err(BackendError::Shape { what, expected, got }) }
}

/// All mixes in one pass over the table, where there are several with ascending ids, on the CPU.
fn many_mixes(model: &Decoder, mixes: &[TokenMix<'_>]) -> Result<Option<Vec<f32>>> {
    let ascending = |mix: &TokenMix<'_>| match mix {
        TokenMix::Sparse { ids, .. } => ids.is_sorted(),
        TokenMix::Dense(_) => true,
    };
    let (storage, layout) = model.embed.storage_and_layout();
    match &*storage {
        Storage::Cpu(table) if mixes.len() > 1 && mixes.iter().all(ascending) => {
            Ok(Some(mix_many(&Values::new(table, layout)?, model.config.hidden, mixes)))
        }
        _ => Ok(None),
    }
}

fn one_mix(model: &Decoder, mix: &TokenMix<'_>) -> Result<Vec<f32>> {
    let dim = model.config.hidden;
    let (storage, layout) = model.embed.storage_and_layout();
    if let Storage::Cpu(table) = &*storage {
        let table = Values::new(table, layout)?;
        return Ok(match mix {
            TokenMix::Sparse { ids, weights } => mix_sparse(&table, dim, ids, weights),
            TokenMix::Dense(weights) => mix_dense(&table, dim, weights),
        });
    }
    drop(storage);
    let scattered;
    let (rows, weights) = match mix {
        TokenMix::Sparse { ids: [], .. } | TokenMix::Dense([]) => return Ok(vec![0.0; dim]),
        TokenMix::Sparse { ids, weights } if ids.len() > model.config.vocab / GATHERED => {
            scattered = scatter(ids, weights, model.config.vocab);
            (model.embed.clone(), &scattered[..])
        }
        TokenMix::Sparse { ids, weights } => {
            let ids = Tensor::from_slice(ids, ids.len(), &model.device)?;
            (model.embed.index_select(&ids, 0)?.to_dtype(DType::F32)?, *weights)
        }
        TokenMix::Dense(weights) => (model.embed.narrow(0, 0, weights.len())?, *weights),
    };
    let weights = Tensor::from_slice(weights, (1, weights.len()), &model.device)?.to_dtype(rows.dtype())?;
    weights.matmul(&rows)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

/// A weight for each of `rows` ids, zero where `ids` has none; what comes twice adds up.
fn scatter(ids: &[u32], weights: &[f32], rows: usize) -> Vec<f32> {
    let mut all = vec![0.0; rows];
    for (id, weight) in ids.iter().zip(weights) {
        if let Some(sum) = usize::try_from(*id).ok().and_then(|id| all.get_mut(id)) {
            *sum += weight;
        }
    }
    all
}

/// Rows `start..` of `table`, at most [`BLOCK_ROWS`], in f32 on the CPU.
fn block(table: &Tensor, start: usize) -> Result<Tensor> {
    let rows = BLOCK_ROWS.min(table.dim(0)?.saturating_sub(start));
    // A view would take the whole table along to the host.
    table.narrow(0, start, rows)?.force_contiguous()?.to_device(&Device::Cpu)?.to_dtype(DType::F32)
}

/// Mean L2 norm of the input embeddings, as layer 0 takes them.
pub(crate) fn mean_embedding_norm(model: &Decoder) -> Result<f32> {
    let mut sum = 0f64;
    for start in (0..model.config.vocab).step_by(BLOCK_ROWS) {
        let norms = block(&model.embed, start)?.sqr()?.sum(1)?.sqrt()?.to_vec1::<f32>()?;
        sum += norms.into_iter().map(f64::from).sum::<f64>();
    }
    let scale = f64::from(model.embed_scale().unwrap_or(1.0));
    Ok((sum / model.config.vocab as f64 * scale) as f32)
}

/// `E_out^T E_out` and `E_out^T E_in`: products of row blocks in f32, summed in f64.
pub(crate) fn realignment_products(model: &Decoder) -> Result<RealignmentProducts> {
    let dim = model.config.hidden;
    let (mut gram, mut cross) = (vec![0f64; dim * dim], vec![0f64; dim * dim]);
    for start in (0..model.config.vocab).step_by(BLOCK_ROWS) {
        let output = block(model.head(), start)?;
        let transposed = output.t()?;
        add(&mut gram, &transposed.matmul(&output)?)?;
        if !model.config.tied {
            add(&mut cross, &transposed.matmul(&block(&model.embed, start)?)?)?;
        }
    }
    if model.config.tied {
        cross.clone_from(&gram);
    }
    let scale = f64::from(model.embed_scale().unwrap_or(1.0));
    cross.iter_mut().for_each(|x| *x *= scale);
    Ok(RealignmentProducts { gram, cross })
}

fn add(sum: &mut [f64], block: &Tensor) -> Result<()> {
    for (s, x) in sum.iter_mut().zip(block.flatten_all()?.to_vec1::<f32>()?) {
        *s += f64::from(x);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_mix_is_scattered_and_what_comes_twice_adds_up() {
        assert_eq!(scatter(&[3, 1, 3], &[0.5, 0.25, 1.0], 5), [0.0, 0.25, 0.0, 1.5, 0.0]);
    }
}
