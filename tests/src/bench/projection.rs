//! Projection between models of the shapes of Qwen2.5-0.5B and Qwen2.5-1.5B, beside one pass of `logits` and the Python SDK.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use avp_backend::{
    Backend, ProjectionOptions, SharedTokens, SoftmaxMix, distributions, embed_distributions, left_out_bound,
    vocabulary_overlap,
};
use avp_backend_candle::{CandleBackend, LoadOptions};
use avp_wire::vocabulary::{HashedToken, Meaning, SharedPairs, TokenHashes, meaning_hash, string_hash};
use avp_wire::{Distribution, KvDtype};
use serde_json::json;

use crate::measure::{Side, alternate, alternate_warm, seconds};
use crate::peer::Peer;
use crate::report::{Bound, Figure, Group};
use crate::shape::{STD, Shape, uniform};

const ROUNDS: usize = 11;
const PASS: &str = "one pass of logits";
const SDK: &str = "Python SDK";
/// Positions that are projected at once, as many as a thought of 20 latent steps has.
const POSITIONS: usize = 20;
/// Tokens that a trained model weighs against each other, and the logit of the first.
const CANDIDATES: usize = 10;
const FIRST_LOGIT: f32 = 25.0;
/// Distributions of each entropy whose truncation is measured.
const TRUNCATED: usize = 200;
const SHIPPED: usize = 1024;
/// Tokens of the vocabularies that are compared.
const TOKENS: usize = 150_000;

/// Projection, transfer and vocabularies.
pub(crate) fn run(python: Option<&Path>) -> Result<Group> {
    let source_shape = Shape { layers: 1, intermediate: 64, ..Shape::HALF_B };
    let target_shape = Shape { hidden: 1536, heads: 12, ..source_shape };
    let folders = (source_shape.write()?, target_shape.write()?);
    let mut group = Group::new("Projection between models, vocabulary 151,936, hidden 896 to 1,536");
    for dtype in [KvDtype::F32, KvDtype::Bf16] {
        let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
        let load = |folder: &Path| CandleBackend::load(folder, &options);
        let pair = Two { source: &load(folders.0.path())?, target: &load(folders.1.path())?, dtype };
        for threads in [rayon::current_num_threads(), 1] {
            let sdk = python.map(|python| pair.sdk(python, threads)).transpose()?;
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            pool.install(|| pair.speed(&mut group, sdk, threads))?;
        }
        if dtype == KvDtype::F32 {
            pair.transfer(&mut group)?;
            pair.truncation(&mut group)?;
        }
    }
    let sdk = python.map(|python| Peer::start(python, "bench_projection.py")).transpose()?;
    vocabularies(&mut group, sdk.map(RefCell::new).as_ref())?;
    group.note(format!(
        "median of {ROUNDS} alternating rounds, each side warm; hidden states that weigh {CANDIDATES} tokens, logits from {FIRST_LOGIT} down by 0.7, against random ones of the others"
    ));
    group.note("the SDK makes all of a bf16 table f32 for each projection");
    Ok(group)
}

struct Two<'a> {
    source: &'a CandleBackend,
    target: &'a CandleBackend,
    dtype: KvDtype,
}

impl Two<'_> {
    /// The SDK with tables of these shapes.
    fn sdk(&self, python: &Path, threads: usize) -> Result<Peer> {
        let mut peer = Peer::start_with(python, "bench_projection.py", threads)?;
        let (vocab, from) = (self.source.info().vocab_size, self.width());
        let into = self.target.info().identity.hidden_dim;
        peer.ask(&json!({
            "op": "tables", "vocab": vocab, "source_dim": from, "target_dim": into, "dtype": self.name(),
        }))?;
        Ok(peer)
    }

    fn name(&self) -> &'static str {
        if self.dtype == KvDtype::F32 { "f32" } else { "bf16" }
    }

    fn speed(&self, group: &mut Group, sdk: Option<Peer>, threads: usize) -> Result<()> {
        let rows: Vec<f32> =
            (0..POSITIONS).map(|seed| self.hidden(seed)).collect::<Result<Vec<_>>>()?.concat();
        let one = &rows[..self.width()];
        let shared = SharedTokens::Same(self.source.info().vocab_size);
        let options = ProjectionOptions::default();
        let project =
            |rows: &[f32]| Ok(vocabulary_overlap(self.source, self.target, &shared, rows, &options)?);
        let ship = |rows: &[f32]| Ok(distributions(self.source, &shared, rows, SHIPPED, &options)?);
        let mut sides: Vec<Side<'_>> = vec![
            Box::new(|| seconds(|| Ok(self.source.logits(one)?))),
            Box::new(|| seconds(|| project(one))),
            Box::new(|| seconds(|| project(&rows))),
            Box::new(|| seconds(|| ship(one))),
        ];
        if let Some(mut sdk) = sdk {
            sides.push(Box::new(move || sdk.seconds_and_rest(&json!({ "op": "project" }))));
        }
        let samples = alternate_warm(ROUNDS, &mut sides)?;
        let [pass, projection, many, shipping, python @ ..] = &samples[..] else { unreachable!() };
        let name = |what: &str| {
            format!("{}, {threads} thread{}, {what}", self.name(), if threads == 1 { "" } else { "s" })
        };
        let one = name("projection of one position");
        group.figures.push(
            Figure::milliseconds(&one, projection)
                .cost_beside(PASS, projection, pass)
                .target(Bound::RatioAtMost(1.15)),
        );
        if let [python] = python {
            let bound = if self.dtype == KvDtype::F32 { 0.4 } else { 0.15 };
            group.figures.push(
                Figure::milliseconds(&one, projection)
                    .cost_beside(SDK, projection, python)
                    .target(Bound::RatioAtMost(bound)),
            );
        }
        group.figures.extend([
            Figure::milliseconds(name(&format!("projection of {POSITIONS} positions")), many)
                .cost_beside("one position", many, projection)
                .target(Bound::RatioAtMost(5.0)),
            Figure::milliseconds(
                name(&format!("distribution of the {SHIPPED} most probable tokens")),
                shipping,
            )
            .cost_beside(PASS, shipping, pass),
        ]);
        if threads > 1 {
            group.note(self.kept(&rows[..self.width()])?);
        }
        Ok(())
    }

    /// How many tokens are mixed for one position.
    fn kept(&self, hidden: &[f32]) -> Result<String> {
        let left_out = left_out_bound(self.source);
        let mix = SoftmaxMix::from_logits(&self.source.logits(hidden)?, 1.0, left_out)?;
        Ok(format!(
            "{}: the mix of one position keeps {} of {} tokens, leaving out at most {left_out:.0e} of the mass",
            self.name(),
            mix.kept(),
            self.source.info().vocab_size
        ))
    }

    fn transfer(&self, group: &mut Group) -> Result<()> {
        let shared = SharedTokens::Same(self.source.info().vocab_size);
        let hidden = self.hidden(0)?;
        let shipped = distributions(self.source, &shared, &hidden, SHIPPED, &ProjectionOptions::default())?;
        let bytes = Distribution::encode_all(&shipped).len();
        group.figures.push(
            Figure::of("payload of one position, 1,024 tokens", "KB", bytes as f64 / 1e3)
                .target(Bound::ValueAtMost(8.0)),
        );
        Ok(())
    }

    /// Cosine of what is mixed of the shipped tokens with what is mixed of all, beside the mass left out.
    fn truncation(&self, group: &mut Group) -> Result<()> {
        let vocab = self.source.info().vocab_size;
        for entropy in [0.5_f32, 2.0, 4.0] {
            let (mut cosines, mut masses) = (Vec::new(), Vec::new());
            for seed in 0..TRUNCATED {
                let probabilities = of_entropy(vocab, entropy, seed);
                let all = Distribution::new((0..vocab as u32).collect(), probabilities.clone(), 0.0)?;
                let mut order: Vec<u32> = (0..vocab as u32).collect();
                order.select_nth_unstable_by(SHIPPED, |a, b| {
                    probabilities[*b as usize].total_cmp(&probabilities[*a as usize])
                });
                order.truncate(SHIPPED);
                order.sort_unstable();
                let kept: Vec<f32> = order.iter().map(|id| probabilities[*id as usize]).collect();
                let left_out = (1.0 - kept.iter().sum::<f32>()).max(0.0);
                let some = Distribution::new(order, kept, left_out)?;
                let rows = embed_distributions(self.target, &[all, some], None)?;
                let (whole, cut) = rows.split_at(rows.len() / 2);
                cosines.push(f64::from(cosine(whole, cut)));
                masses.push(f64::from(left_out));
            }
            let (least, most) =
                (cosines.iter().copied().fold(1.0, f64::min), masses.iter().copied().fold(0.0, f64::max));
            let within: Vec<f64> =
                cosines.iter().zip(&masses).filter(|(_, mass)| **mass <= 0.01).map(|(c, _)| *c).collect();
            let least_within = within.iter().copied().fold(1.0, f64::min);
            group.note(format!(
                "truncated to {SHIPPED} of {vocab} tokens at {entropy} nats, {TRUNCATED} distributions: at most {most:.4} of the mass left out, cosine with the whole at least {least:.5}; {} of them leave out at most 1 %, cosine at least {least_within:.5}",
                within.len()
            ));
        }
        Ok(())
    }

    fn width(&self) -> usize {
        self.source.info().identity.hidden_dim as usize
    }

    /// A hidden state whose logits are as peaked as a trained model's.
    fn hidden(&self, seed: usize) -> Result<Vec<f32>> {
        let width = self.width();
        let ids: Vec<u32> = (0..CANDIDATES)
            .map(|k| ((seed * CANDIDATES + k) * 1009 % self.source.info().vocab_size) as u32)
            .collect();
        let rows: Vec<f32> = {
            let mixes = ids
                .iter()
                .map(|id| avp_backend::TokenMix::Sparse { ids: std::slice::from_ref(id), weights: &[1.0] });
            self.source.embed_mix(&mixes.collect::<Vec<_>>())?
        };
        let square = STD * STD * width as f32;
        let mut hidden = vec![0.0; width];
        for (k, row) in rows.chunks_exact(width).enumerate() {
            let factor = (FIRST_LOGIT - 0.7 * k as f32) / square;
            hidden.iter_mut().zip(row).for_each(|(h, x)| *h += factor * x);
        }
        Ok(hidden)
    }
}

/// Probabilities of `vocab` tokens whose entropy is about `entropy` nats: random logits, scaled until it is.
fn of_entropy(vocab: usize, entropy: f32, seed: usize) -> Vec<f32> {
    // Squares of what is uniform lie densest at 0, as most tokens of a trained model are out of the question.
    let logit = |i: usize| -> f32 {
        let unit = uniform((seed as u64) << 32 | i as u64) / (2.0 * 3f32.sqrt() * STD) + 0.5;
        -(unit.max(1e-9)).ln()
    };
    let logits: Vec<f32> = (0..vocab).map(logit).collect();
    let softmax = |scale: f32| {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut values: Vec<f32> = logits.iter().map(|l| ((l - most) * scale).exp()).collect();
        let total: f64 = values.iter().map(|v| f64::from(*v)).sum();
        values.iter_mut().for_each(|v| *v = (f64::from(*v) / total) as f32);
        values
    };
    let nats = |p: &[f32]| -p.iter().map(|p| p * p.max(1e-30).ln()).sum::<f32>();
    let (mut low, mut high) = (0.0_f32, 64.0_f32);
    for _ in 0..20 {
        let middle = (low + high) / 2.0;
        if nats(&softmax(middle)) > entropy { low = middle } else { high = middle }
    }
    softmax(high)
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Two vocabularies of which the most part is shared, as between families of models.
fn vocabularies(group: &mut Group, sdk: Option<&RefCell<Peer>>) -> Result<()> {
    let token = |i: usize| format!("\u{120}token{i:06}");
    let source: Vec<String> = (0..TOKENS).map(token).collect();
    let target: Vec<String> = (0..TOKENS).map(|i| token((i * 7 + 20_000) % (TOKENS + 20_000))).collect();
    let maps: Vec<HashMap<String, u32>> =
        [&source, &target].map(|tokens| tokens.iter().cloned().zip(0..).collect()).into();
    if let Some(sdk) = sdk {
        sdk.borrow_mut().ask(&json!({ "op": "vocabularies", "tokens": [source, target] }))?;
    }
    let hashes = |tokens: &[String]| {
        let token = |(token, id): (&String, u32)| HashedToken {
            id,
            meaning: meaning_hash(Meaning::Text(token.as_bytes())),
            string: string_hash(token),
        };
        TokenHashes::new(tokens.iter().zip(0..).map(token))
    };
    let (ours, theirs) = (hashes(&source)?, hashes(&target)?);
    let mut sides: Vec<Side<'_>> = vec![
        Box::new(|| seconds(|| Ok(SharedTokens::by_string(&maps[0], &maps[1])))),
        Box::new(|| seconds(|| Ok(hashes(&source)?))),
        Box::new(|| seconds(|| Ok(SharedPairs::between(&ours, &theirs)))),
    ];
    if let Some(sdk) = sdk {
        sides.push(Box::new(move || sdk.borrow_mut().seconds(&json!({ "op": "overlap" }))));
    }
    let samples = alternate(ROUNDS, &mut sides)?;
    let [strings, hashing, comparing, python @ ..] = &samples[..] else { unreachable!() };
    let mut by_string = Figure::milliseconds("overlap of two vocabularies of 150,000 by string", strings);
    let mut by_hash = Figure::milliseconds("overlap by their hashes", comparing);
    if let [python] = python {
        by_string = by_string.cost_beside(SDK, strings, python).target(Bound::RatioAtMost(1.0));
        by_hash = by_hash.cost_beside(SDK, comparing, python).target(Bound::RatioAtMost(1.0));
    }
    let hashing = Figure::milliseconds("hashes of one of them, once for each model", hashing);
    group.figures.extend([by_string, by_hash, hashing]);
    Ok(())
}
