//! A latent step on the Qwen2.5-0.5B shape, beside one pass of `logits` and beside `transformers`.

use std::cell::RefCell;
use std::path::Path;

use anyhow::{Context, Result};
use avp_backend::{Backend, Input, LatentProjection, Sequence, SoftmaxMix, left_out_bound};
use avp_backend_candle::{CandleBackend, LoadOptions};
use serde_json::{Value, json};

use crate::measure::{Side, alternate, median, seconds};
use crate::peer::Peer;
use crate::report::{Bound, Figure, Group};
use crate::shape::Shape;

const ROUNDS: usize = 11;
const PROMPT: [u32; 16] = [9906, 11, 1917, 0, 358, 1079, 264, 4128, 1614, 13, 3555, 374, 279, 1850, 1616, 30];
const PASS: &str = "one pass of logits";
/// Factor on the final norm that leaves nothing for the softmax to choose by.
const FLAT: f32 = 1e-4;

/// Projection peaked and flat, the step, and the Python side of it.
pub(crate) fn run(python: Option<&Path>) -> Result<Group> {
    let shape = Shape::HALF_B;
    let folder = shape.write()?;
    let options = LoadOptions { cache_dir: Some(folder.path().to_path_buf()), ..LoadOptions::default() };
    let backend = CandleBackend::load(folder.path(), &options)?;
    let mut group = Group::new("Latent step, Qwen2.5-0.5B shape, random f32 weights, tied");
    let mut torch = match python {
        Some(python) => Torch::start(python, folder.path(), &mut group)?,
        None => None,
    };

    let mut sequence = backend.new_sequence(PROMPT.len() + 2 * ROUNDS + 8)?;
    let hidden = sequence.forward(Input::Tokens(&PROMPT))?;
    let flat: Vec<f32> = hidden.iter().map(|x| x * FLAT).collect();
    let step =
        Step { backend: &backend, projection: LatentProjection::for_backend(&backend, None)?, hidden, flat };
    if let Some(torch) = &mut torch {
        group.note(torch.compare(&step)?);
    }
    step.measure(&mut group, sequence, torch)?;
    step.describe(&mut group)?;
    group.note("the engine projects in one pass over the table whatever the distribution; by two operations it is a pass of logits and, unless few ids carry the mass, a pass of embed_mix");
    group.note("the flat case is the same hidden state times 1e-4, which is what a final norm scaled to near 0 gives");
    group.note(format!("median of {ROUNDS} alternating rounds after a prompt of {} tokens", PROMPT.len()));
    Ok(group)
}

struct Step<'a> {
    backend: &'a CandleBackend,
    projection: LatentProjection,
    hidden: Vec<f32>,
    flat: Vec<f32>,
}

impl Step<'_> {
    fn measure(&self, group: &mut Group, sequence: Box<dyn Sequence>, torch: Option<Torch>) -> Result<()> {
        let sequence = RefCell::new(sequence);
        let torch = torch.map(RefCell::new);
        let project = |hidden: &[f32]| Ok(self.projection.apply(self.backend, hidden)?);
        let forward = |embedding: &[f32]| Ok(sequence.borrow_mut().forward(Input::Embeddings(embedding))?);
        let embedding = project(&self.hidden)?;
        let mut sides: Vec<Side<'_>> = vec![
            Box::new(|| seconds(|| Ok(self.backend.logits(&self.hidden)?))),
            Box::new(|| seconds(|| project(&self.hidden))),
            Box::new(|| seconds(|| project(&self.flat))),
            Box::new(|| seconds(|| self.by_two_operations(&self.hidden))),
            Box::new(|| seconds(|| forward(&embedding))),
            Box::new(|| seconds(|| forward(&project(&self.hidden)?))),
        ];
        if let Some(torch) = &torch {
            for op in ["logits", "sdk_projection", "forward", "sdk_step"] {
                sides.push(Box::new(move || torch.borrow_mut().0.seconds(&json!({ "op": op }))));
            }
        }
        let samples = alternate(ROUNDS, &mut sides)?;
        let [pass, peaked, flat, two_operations, forward, step, python @ ..] = &samples[..] else {
            unreachable!()
        };
        group.figures.extend([
            Figure::milliseconds("projection, logits peaked", peaked)
                .cost_beside(PASS, peaked, pass)
                .target(Bound::RatioAtMost(1.15)),
            Figure::milliseconds("projection, logits flat", flat)
                .cost_beside(PASS, flat, pass)
                .target(Bound::RatioAtMost(2.3)),
            Figure::milliseconds("peaked, by logits, SoftmaxMix and embed_mix", two_operations).cost_beside(
                PASS,
                two_operations,
                pass,
            ),
            Figure::milliseconds("forward of one embedding", forward).cost_beside(PASS, forward, pass),
            Figure::milliseconds("whole latent step", step).cost_beside(PASS, step, pass),
        ]);
        if let [logits, projection, torch_forward, torch_step] = python {
            group.figures.extend([
                Figure::milliseconds(PASS, pass).speed_beside("torch", pass, logits),
                Figure::milliseconds("projection", peaked).speed_beside("Python SDK", peaked, projection),
                Figure::milliseconds("forward", forward).speed_beside("transformers", forward, torch_forward),
                Figure::milliseconds("whole latent step", step).speed_beside(
                    "Python SDK on transformers",
                    step,
                    torch_step,
                ),
            ]);
        }
        let table = f64::from(u32::try_from(Shape::HALF_B.vocab * Shape::HALF_B.hidden * 4)?);
        group.note(format!(
            "one pass of logits reads the table of {:.0} MB at {:.1} GB/s",
            table / 1e6,
            table / 1e9 / median(pass)
        ));
        Ok(())
    }

    /// The projection by the two operations that every backend has, which the engine's one pass stands for.
    fn by_two_operations(&self, hidden: &[f32]) -> Result<Vec<f32>> {
        let logits = self.backend.logits(hidden)?;
        let mix = SoftmaxMix::from_logits(&logits, 1.0, left_out_bound(self.backend))?;
        Ok(self.backend.embed_mix(&[mix.as_token_mix()])?)
    }

    /// What the softmax keeps, peaked and flat.
    fn describe(&self, group: &mut Group) -> Result<()> {
        for (name, hidden) in [("peaked", &self.hidden), ("flat", &self.flat)] {
            let logits = self.backend.logits(hidden)?;
            let mean = logits.iter().sum::<f32>() / logits.len() as f32;
            let variance = logits.iter().map(|l| (l - mean).powi(2)).sum::<f32>() / logits.len() as f32;
            let mix = SoftmaxMix::from_logits(&logits, 1.0, left_out_bound(self.backend))?;
            let (kept, left_out) = fewest(&logits, left_out_bound(self.backend));
            let form = if matches!(mix, SoftmaxMix::Dense(_)) { "dense" } else { "sparse" };
            group.note(format!(
                "{name}: logits' standard deviation {:.3}; SoftmaxMix is {form}; the fewest ids that leave out at most {:.0e} of the mass are {} of {}, leaving out {:.1e}",
                variance.sqrt(),
                left_out_bound(self.backend),
                kept,
                logits.len(),
                left_out
            ));
        }
        Ok(())
    }
}

/// The fewest ids whose complement has at most `bound` of the softmax's mass: how many, and that mass.
fn fewest(logits: &[f32], bound: f32) -> (usize, f64) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut masses: Vec<f64> = logits.iter().map(|l| f64::from(l - max).exp()).collect();
    let total: f64 = masses.iter().sum();
    masses.sort_by(f64::total_cmp);
    let (mut left_out, mut dropped) = (0.0, 0);
    for mass in masses {
        if (left_out + mass) / total > f64::from(bound) {
            break;
        }
        left_out += mass;
        dropped += 1;
    }
    (logits.len() - dropped, left_out / total)
}

/// `tests/python/bench_torch.py` with the same weights.
struct Torch(Peer);

impl Torch {
    /// Loads the model there, or notes in `group` why there is none.
    fn start(python: &Path, folder: &Path, group: &mut Group) -> Result<Option<Self>> {
        let mut peer = Peer::start(python, "bench_torch.py")?;
        let folder = folder.to_str().context("the temporary folder's name is not UTF-8")?;
        let threads = rayon::current_num_threads();
        let request = json!({ "op": "load", "folder": folder, "threads": threads, "prompt": PROMPT });
        let answer = peer.ask(&request)?;
        if let Some(missing) = answer.get("missing").and_then(Value::as_str) {
            group.note(format!("the columns of torch and transformers are missing: {missing}"));
            return Ok(None);
        }
        Ok(Some(Self(peer)))
    }

    /// How far hidden state and projection of the two sides are apart: they are to do the same work.
    fn compare(&mut self, step: &Step<'_>) -> Result<String> {
        let answer = self.0.ask(&json!({ "op": "values" }))?;
        let values = |key: &str| -> Result<Vec<f32>> {
            Ok(serde_json::from_value(answer.get(key).cloned().unwrap_or(Value::Null))?)
        };
        let embedding = step.projection.apply(step.backend, &step.hidden)?;
        let version = answer.get("version").and_then(Value::as_str).unwrap_or_default();
        Ok(format!(
            "beside {version}: hidden states differ by at most {:.1e}, projections by {:.1e}",
            farthest(&step.hidden, &values("hidden")?),
            farthest(&embedding, &values("embedding")?)
        ))
    }
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
