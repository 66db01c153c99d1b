//! `avp bench`: how fast a model of a well-known shape is, beside what memory allows.

use std::time::Instant;

use anyhow::{Context as _, Result};
use avp::{Backend, CandleBackend, Input, KvRange, LatentProjection, LinearMap, Sequence, random_backend};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::output;

/// Positions that are cached when steps are measured.
const BEHIND: usize = 512;

pub(crate) fn run(args: &BenchArgs, json: bool) -> Result<()> {
    let backend = random_backend(args.shape, &args.engine.options())?;
    let bandwidth = backend.memory_bandwidth()?;
    let bench = Bench { backend: &backend, bandwidth, rounds: args.rounds.into() };
    let mut figures = Vec::new();
    for length in &args.prefill {
        figures.push(bench.prefill(*length as usize)?);
    }
    figures.extend(bench.steps(args.steps.into())?);
    let longest = args.prefill.iter().max().map_or(BEHIND, |length| *length as usize);
    figures.extend(bench.cache(longest)?);
    let info = backend.info();
    if json {
        let figures: Vec<Value> = figures.iter().map(Figure::record).collect();
        return Ok(output::object(&json!({
            "shape": args.shape.name(), "device": info.device, "dtype": format!("{:?}", info.dtype).to_lowercase(),
            "memory_bandwidth": bandwidth, "rounds": args.rounds, "figures": figures,
        }))?);
    }
    output::line(&format!(
        "{} with random weights, {:?} on {}; memory moves {:.1} GB/s",
        args.shape,
        info.dtype,
        info.device,
        bandwidth / 1e9
    ))?;
    output::line(&format!("{:<32} {:>18} {:>18} {:>10}", "", "here", "at most", "share"))?;
    figures.iter().try_for_each(|figure| output::line(&figure.line()))?;
    Ok(())
}

/// A figure and, where memory bounds it, that bound in the same unit.
struct Figure {
    name: String,
    unit: &'static str,
    value: f64,
    bound: Option<f64>,
}

impl Figure {
    fn milliseconds(name: impl Into<String>, seconds: f64, bound: Option<f64>) -> Self {
        Self { name: name.into(), unit: "ms", value: seconds * 1e3, bound: bound.map(|s| s * 1e3) }
    }

    /// How much of what is possible is reached.
    fn share(&self) -> Option<f64> {
        let share = |bound: f64| if self.unit == "ms" { bound / self.value } else { self.value / bound };
        self.bound.map(share)
    }

    fn line(&self) -> String {
        let of = |value: f64| format!("{value:.2} {}", self.unit);
        let bound = self.bound.map(of).unwrap_or_default();
        let share = self.share().map(|share| format!("{:.0} %", share * 100.0)).unwrap_or_default();
        format!("{:<32} {:>18} {bound:>18} {share:>10}", self.name, of(self.value))
    }

    fn record(&self) -> Value {
        json!({ "name": self.name, "unit": self.unit, "value": self.value, "at_most": self.bound, "share": self.share() })
    }
}

struct Bench<'a> {
    backend: &'a CandleBackend,
    /// Bytes a second.
    bandwidth: f64,
    rounds: usize,
}

impl Bench<'_> {
    fn prefill(&self, length: usize) -> Result<Figure> {
        let tokens = tokens(length);
        let seconds = self.median(|| {
            let mut sequence = self.backend.new_sequence(length)?;
            let start = Instant::now();
            sequence.forward(Input::Tokens(&tokens))?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let name = format!("prefill of {length} tokens");
        Ok(Figure { name, unit: "tokens/s", value: length as f64 / seconds, bound: None })
    }

    /// Steps behind a prompt, each beside the time that reading its weights takes.
    fn steps(&self, steps: usize) -> Result<[Figure; 3]> {
        let room = BEHIND + (self.rounds + 1) * (steps + 1);
        let mut sequence = self.backend.new_sequence(room)?;
        let hidden = sequence.forward(Input::Tokens(&tokens(BEHIND)))?;
        let projection = self.projection(hidden.len());
        let decode = self.median(|| {
            let start = Instant::now();
            let hidden = sequence.forward(Input::Tokens(&[1]))?;
            std::hint::black_box(self.backend.logits(&hidden)?);
            Ok(start.elapsed().as_secs_f64())
        })?;
        let latent = self.median(|| {
            let start = Instant::now();
            think(self.backend, sequence.as_mut(), &hidden, steps, &projection)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let alone = self.median(|| {
            let start = Instant::now();
            std::hint::black_box(projection.apply(self.backend, &hidden)?);
            Ok(start.elapsed().as_secs_f64())
        })?;
        let of_bytes = |bytes: usize| Some(bytes as f64 / self.bandwidth);
        // A tied model projects with the table that is its head too; an untied one by a matrix instead of the head.
        let bytes = self.backend.decode_bytes();
        let step = latent / steps as f64;
        let latent_bound = if self.backend.info().tied_embeddings { of_bytes(bytes) } else { None };
        Ok([
            Figure::milliseconds("decode step", decode, of_bytes(bytes)),
            Figure::milliseconds(format!("latent step, of {steps}"), step, latent_bound),
            Figure::milliseconds("projection alone", alone, None),
        ])
    }

    /// Moves the cache of a context to memory of the host, and back.
    fn cache(&self, length: usize) -> Result<[Figure; 2]> {
        let mut sequence = self.backend.new_sequence(length)?;
        sequence.forward(Input::Tokens(&tokens(length)))?;
        let info = self.backend.info();
        let identity = &info.identity;
        let per_token =
            2 * identity.num_layers as usize * identity.num_kv_heads as usize * identity.head_dim as usize;
        let range = KvRange { layers: 0..identity.num_layers as usize, tokens: 0..length };
        let mut bytes = vec![0_u8; length * per_token * info.dtype.size()];
        let capture = self.median(|| {
            let start = Instant::now();
            sequence.export_kv(&range, &mut bytes)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let mut other = self.backend.new_sequence(length)?;
        // A device may still be at it when the call returns; what it has taken last is read back.
        let last = KvRange { layers: range.layers.end - 1..range.layers.end, tokens: length - 1..length };
        let mut read = vec![0_u8; per_token / identity.num_layers as usize * info.dtype.size()];
        let inject = self.median(|| {
            let start = Instant::now();
            other.import_kv(&range, info.dtype, &bytes)?;
            other.export_kv(&last, &mut read)?;
            Ok(start.elapsed().as_secs_f64())
        })?;
        let rate = |what: &str, seconds: f64| Figure {
            name: format!("{what} of {length} tokens"),
            unit: "GB/s",
            value: bytes.len() as f64 / seconds / 1e9,
            bound: None,
        };
        Ok([rate("capture", capture), rate("inject", inject)])
    }

    /// The projection of latent steps; an untied model's is by a matrix whose values do not matter here.
    fn projection(&self, hidden: usize) -> LatentProjection {
        if self.backend.info().tied_embeddings {
            return LatentProjection::SoftEmbedding;
        }
        let matrix = (0..hidden * hidden).map(|i| if i % (hidden + 1) == 0 { 1.0 } else { 0.0 }).collect();
        LatentProjection::Realignment(LinearMap::new(matrix, None, 1.0))
    }

    /// The middle of several rounds, behind one that does not count.
    fn median(&self, mut seconds: impl FnMut() -> Result<f64>) -> Result<f64> {
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
