//! What `avp bench` measures.

use std::time::Instant;

use anyhow::{Context as _, Result};
use avp::{Backend, CandleBackend, Input, KvRange, LatentProjection, LinearMap, Sequence};

use super::figure::{Figure, Launches};

/// Positions that are cached when steps are measured.
pub(super) const BEHIND: usize = 512;

pub(super) struct Bench<'a> {
    pub(super) backend: &'a CandleBackend,
    /// Bytes a second.
    pub(super) bandwidth: f64,
    pub(super) rounds: usize,
}

impl Bench<'_> {
    pub(super) fn prefill(&self, length: usize) -> Result<Figure> {
        let tokens = tokens(length);
        let seconds = self.median_of(|| {
            let mut sequence = self.backend.new_sequence(length)?;
            let start = Instant::now();
            sequence.forward(Input::Tokens(&tokens))?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let name = format!("prefill of {length} tokens");
        Ok(Figure::new(name, "tokens/s", length as f64 / seconds, None))
    }

    /// Steps behind a prompt, each beside the time that reading its weights takes, and on a GPU with the share of launches in it.
    pub(super) fn steps(&self, steps: usize) -> Result<[Figure; 3]> {
        let room = BEHIND + (self.rounds + 1) * (steps + 1);
        let mut sequence = self.backend.new_sequence(room)?;
        let hidden = sequence.forward(Input::Tokens(&tokens(BEHIND)))?;
        let projection = self.projection(hidden.len());
        let decode = self.median(|| {
            let hidden = sequence.forward(Input::Tokens(&[1]))?;
            std::hint::black_box(self.backend.logits(&hidden)?);
            Ok(())
        })?;
        let latent = self.median(|| think(self.backend, sequence.as_mut(), &hidden, steps, &projection))?
            / steps as f64;
        let alone = self.median(|| {
            std::hint::black_box(projection.apply(self.backend, &hidden)?);
            Ok(())
        })?;
        let queued = self.backend.queued_steps(BEHIND, &projection)?;
        let of_decode = queued.map(|queued| Launches::new(decode, queued.decode, queued.all_queued));
        let of_latent = queued.map(|queued| Launches::new(latent, queued.latent, queued.all_queued));
        let bound = Some(self.backend.decode_bytes() as f64 / self.bandwidth);
        // A tied model projects with the table that is its head too; an untied one by a matrix instead of the head.
        let latent_bound = bound.filter(|_| self.backend.info().tied_embeddings);
        Ok([
            Figure::milliseconds("decode step", decode, bound).with_launches(of_decode),
            Figure::milliseconds(format!("latent step, of {steps}"), latent, latent_bound)
                .with_launches(of_latent),
            Figure::milliseconds("projection alone", alone, None),
        ])
    }

    /// Moves the cache of a context to memory of the host, and back, beside copies of such a size.
    pub(super) fn cache(&self, length: usize) -> Result<[Figure; 2]> {
        let mut sequence = self.backend.new_sequence(length)?;
        sequence.forward(Input::Tokens(&tokens(length)))?;
        let info = self.backend.info();
        let identity = &info.identity;
        let per_token =
            2 * identity.num_layers as usize * identity.num_kv_heads as usize * identity.head_dim as usize;
        let range = KvRange { layers: 0..identity.num_layers as usize, tokens: 0..length };
        let mut bytes = vec![0_u8; length * per_token * info.dtype.size()];
        let capture = self.median(|| Ok(sequence.export_kv(&range, &mut bytes)?))?;
        let mut other = self.backend.new_sequence(length)?;
        // A device may still be at it when the call returns; what it has taken last is read back.
        let last = KvRange { layers: range.layers.end - 1..range.layers.end, tokens: length - 1..length };
        let mut read = vec![0_u8; per_token / identity.num_layers as usize * info.dtype.size()];
        let inject = self.median(|| {
            other.import_kv(&range, info.dtype, &bytes)?;
            Ok(other.export_kv(&last, &mut read)?)
        })?;
        let copies = self.backend.copy_bandwidth(bytes.len())?;
        let rate = |what: &str, seconds: f64, bound: f64| {
            let name = format!("{what} of {length} tokens");
            Figure::new(name, "GB/s", bytes.len() as f64 / seconds / 1e9, Some(bound / 1e9))
        };
        Ok([rate("capture", capture, copies.to_host), rate("inject", inject, copies.from_host)])
    }

    /// The projection of latent steps; an untied model's is by a matrix whose values do not matter here.
    fn projection(&self, hidden: usize) -> LatentProjection {
        if self.backend.info().tied_embeddings {
            return LatentProjection::SoftEmbedding;
        }
        let matrix = (0..hidden * hidden).map(|i| if i % (hidden + 1) == 0 { 1.0 } else { 0.0 }).collect();
        LatentProjection::Realignment(LinearMap::new(matrix, None, 1.0))
    }

    /// Seconds of the middle of several rounds, behind one that does not count.
    fn median(&self, mut round: impl FnMut() -> Result<()>) -> Result<f64> {
        self.median_of(|| {
            let start = Instant::now();
            round()?;
            Ok(start.elapsed().as_secs_f64())
        })
    }

    /// As [`median`](Self::median), of seconds that a round takes itself.
    fn median_of(&self, mut seconds: impl FnMut() -> Result<f64>) -> Result<f64> {
        seconds()?;
        let mut all = (0..self.rounds).map(|_| seconds()).collect::<Result<Vec<_>>>()?;
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().context("no rounds")
    }
}

/// Latent steps as the engine takes them.
fn think(
    backend: &CandleBackend,
    sequence: &mut dyn Sequence,
    hidden: &[f32],
    steps: usize,
    projection: &LatentProjection,
) -> Result<()> {
    if sequence.latent_steps(hidden, steps, projection)?.is_some() {
        return Ok(());
    }
    let mut hidden = hidden.to_vec();
    for _ in 0..steps {
        hidden = sequence.forward(Input::Embeddings(&projection.apply(backend, &hidden)?))?;
    }
    Ok(())
}

fn tokens(length: usize) -> Vec<u32> {
    (0..).map(|i: u32| i.wrapping_mul(97) % 100_000).take(length).collect()
}
