//! The candle backend on the Qwen2.5-0.5B shape, beside the memory's bandwidth, `transformers` and reading the file.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use avp_backend::{Backend, Input, LatentProjection, Sequence};
use avp_backend_candle::{CandleBackend, LoadOptions};
use avp_wire::KvDtype;
use serde_json::{Value, json};

use crate::measure::{Side, alternate, alternate_warm, median, seconds};
use crate::peer::Peer;
use crate::report::{Bound, Figure, Group};
use crate::shape::Shape;

const ROUNDS: usize = 11;
/// Rounds of what takes seconds.
const LONG_ROUNDS: usize = 3;
const PROMPT: [u32; 16] = [9906, 11, 1917, 0, 358, 1079, 264, 4128, 1614, 13, 3555, 374, 279, 1850, 1616, 30];
/// Tokens of the prompt that is read for the figures of prefill.
const PREFILL: u32 = 512;
/// Factor on the final norm that leaves nothing for the softmax to choose by.
const FLAT: f32 = 1e-4;

const READING: &str = "reading memory";
const PASS: &str = "one pass of logits";
const DECODE: &str = "a decode step";
const TORCH: &str = "transformers";
const SDK: &str = "Python SDK on transformers";

/// All types, with all threads and with one. Files that are made for llama.cpp are kept in `models`.
pub(crate) fn run(python: Option<&Path>, models: &Path) -> Result<Group> {
    let mut group = Group::new("candle, Qwen2.5-0.5B shape, random weights, tied");
    for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16] {
        let folder = Shape::HALF_B.write_as(dtype)?;
        let file = folder.path().join("model.safetensors");
        let options = LoadOptions {
            dtype: Some(dtype),
            cache_dir: Some(folder.path().to_path_buf()),
            ..LoadOptions::default()
        };
        let load = || Ok(CandleBackend::load(folder.path(), &options)?);
        let backend = load()?;
        let name = name(dtype);
        group.figures.push(loading(name, load, &file)?);
        // torch computes f16 on a processor far more slowly than anything else here.
        let python = python.filter(|_| dtype != KvDtype::F16);
        for threads in [rayon::current_num_threads(), 1] {
            let mut torch = match python {
                Some(python) => Torch::start(python, folder.path(), name, threads, &mut group)?,
                None => None,
            };
            let engine = Engine {
                backend: &backend,
                projection: LatentProjection::for_backend(&backend, None)?,
                name: format!("{name}, {threads} thread{}", if threads == 1 { "" } else { "s" }),
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            pool.install(|| engine.measure(&mut group, torch.as_mut()))?;
        }
        if dtype == KvDtype::F16 {
            beside_llamacpp(&mut group, &backend, models)?;
        }
    }
    notes(&mut group);
    Ok(group)
}

fn notes(group: &mut Group) {
    group.note(
        "logits and a decode step (forward of a token and its logits) by the bytes of weights that they read, beside the sum of \
         an array of 1 GiB, on the same threads",
    );
    group.note(
        "peaked: logits of a standard deviation of 5; flat: the same hidden state times 1e-4; the engine projects in one pass \
         over the table whatever the distribution",
    );
    group.note(format!(
        "median of {ROUNDS} alternating rounds, each side warm, after a prompt of {} tokens; prefill of {PREFILL} tokens into an empty cache and the logits of its last, {LONG_ROUNDS} rounds",
        PROMPT.len()
    ));
    group.note("loading: a folder whose fingerprint is cached, from a warm page cache, beside std::fs::read of its file of weights");
    group.note("the SDK's step computes logits that nobody reads");
}

fn name(dtype: KvDtype) -> &'static str {
    match dtype {
        KvDtype::F16 => "f16",
        KvDtype::Bf16 => "bf16",
        _ => "f32",
    }
}

fn loading(name: &str, load: impl Fn() -> Result<CandleBackend>, file: &Path) -> Result<Figure> {
    let mut sides: Vec<Side<'_>> =
        vec![Box::new(|| seconds(&load)), Box::new(|| seconds(|| Ok(fs::read(file)?)))];
    let samples = alternate(LONG_ROUNDS, &mut sides)?;
    let [loading, reading] = &samples[..] else { unreachable!() };
    Ok(Figure::milliseconds(format!("{name}, loading"), loading)
        .cost_beside("std::fs::read", loading, reading)
        .target(Bound::RatioAtMost(1.3)))
}

/// A loaded model, in a pool of threads.
struct Engine<'a> {
    backend: &'a CandleBackend,
    projection: LatentProjection,
    /// Type and threads.
    name: String,
}

impl Engine<'_> {
    fn measure(&self, group: &mut Group, torch: Option<&mut Torch>) -> Result<()> {
        let mut sequence = self.backend.new_sequence(PROMPT.len() + 3 * ROUNDS + 8)?;
        let hidden = sequence.forward(Input::Tokens(&PROMPT))?;
        let torch = torch.map(RefCell::new);
        if let Some(torch) = &torch {
            group.note(torch.borrow_mut().compare(self, &hidden)?);
        }
        self.steps(group, &hidden, sequence, torch.as_ref())?;
        self.prefill(group, torch.as_ref())
    }

    fn steps(
        &self,
        group: &mut Group,
        hidden: &[f32],
        sequence: Box<dyn Sequence>,
        torch: Option<&RefCell<&mut Torch>>,
    ) -> Result<()> {
        let flat: Vec<f32> = hidden.iter().map(|x| x * FLAT).collect();
        let sequence = RefCell::new(sequence);
        let project = |hidden: &[f32]| Ok(self.projection.apply(self.backend, hidden)?);
        let forward = |input: Input<'_>| Ok(sequence.borrow_mut().forward(input)?);
        let embedding = project(hidden)?;
        let mut sides: Vec<Side<'_>> = vec![
            Box::new(|| seconds(|| Ok(self.backend.logits(hidden)?))),
            Box::new(|| seconds(|| project(hidden))),
            Box::new(|| seconds(|| project(&flat))),
            Box::new(|| seconds(|| Ok(self.backend.logits(&forward(Input::Tokens(&PROMPT[..1]))?)?))),
            Box::new(|| seconds(|| forward(Input::Embeddings(&embedding)))),
            Box::new(|| seconds(|| forward(Input::Embeddings(&project(hidden)?)))),
        ];
        if let Some(torch) = torch {
            for op in ["logits", "sdk_projection", "forward", "decode", "sdk_step"] {
                sides.push(Box::new(move || torch.borrow_mut().0.seconds_and_rest(&json!({ "op": op }))));
            }
        }
        let bandwidth = self.backend.memory_bandwidth()?;
        let samples = alternate_warm(ROUNDS, &mut sides)?;
        let [pass, peaked, flat, decode, forward, step, python @ ..] = &samples[..] else { unreachable!() };
        let info = self.backend.info();
        let table = info.vocab_size * info.identity.hidden_dim as usize * info.dtype.size();
        let all = self.backend.decode_bytes();
        let named = |what: &str| format!("{}, {what}", self.name);
        // Seconds that reading as many bytes takes.
        let reading = |bytes: usize| vec![bytes as f64 / bandwidth; ROUNDS];
        group.figures.extend([
            Figure::rate(named("logits"), table, pass)
                .speed_beside(READING, pass, &reading(table))
                .target(Bound::RatioAtLeast(0.75)),
            Figure::rate(named("decode step"), all, decode)
                .speed_beside(READING, decode, &reading(all))
                .target(Bound::RatioAtLeast(0.65)),
            Figure::milliseconds(named("latent step"), step)
                .cost_beside(DECODE, step, decode)
                .target(Bound::RatioAtMost(1.15)),
            Figure::milliseconds(named("projection, logits peaked"), peaked)
                .cost_beside(PASS, peaked, pass)
                .target(Bound::RatioAtMost(1.15)),
            Figure::milliseconds(named("projection, logits flat"), flat)
                .cost_beside(PASS, flat, pass)
                .target(Bound::RatioAtMost(2.3)),
        ]);
        if let [logits, projection, torch_forward, torch_decode, torch_step] = python {
            let with_projection: Vec<f64> =
                torch_decode.iter().zip(projection).map(|(step, projection)| step + projection).collect();
            group.figures.extend([
                Figure::milliseconds(named("logits"), pass).cost_beside("torch", pass, logits),
                Figure::milliseconds(named("forward of one embedding"), forward).cost_beside(
                    TORCH,
                    forward,
                    torch_forward,
                ),
                self.bounded(
                    Figure::milliseconds(named("decode step"), decode).cost_beside(
                        TORCH,
                        decode,
                        torch_decode,
                    ),
                    1.1,
                ),
                Figure::milliseconds(named("projection"), peaked).cost_beside(
                    "Python SDK",
                    peaked,
                    projection,
                ),
                self.bounded(
                    Figure::milliseconds(named("latent step"), step).cost_beside(
                        "transformers' decode step and the SDK's projection",
                        step,
                        &with_projection,
                    ),
                    0.35,
                ),
                Figure::milliseconds(named("latent step"), step).cost_beside(SDK, step, torch_step),
            ]);
        }
        group.note(format!("{}: memory is read at {:.1} GB/s", self.name, bandwidth / 1e9));
        Ok(())
    }

    /// What is asked of bf16, the type that models of this shape come in.
    fn bounded(&self, figure: Figure, most: f64) -> Figure {
        if self.name.starts_with("bf16") { figure.target(Bound::RatioAtMost(most)) } else { figure }
    }

    fn prefill(&self, group: &mut Group, torch: Option<&RefCell<&mut Torch>>) -> Result<()> {
        let tokens = prompt();
        let mut sides: Vec<Side<'_>> = vec![Box::new(|| seconds(|| read(self.backend, &tokens)))];
        if let Some(torch) = torch {
            let request = json!({ "op": "prefill", "tokens": tokens });
            sides.push(Box::new(move || torch.borrow_mut().0.seconds_and_rest(&request)));
        }
        let samples = alternate(LONG_ROUNDS, &mut sides)?;
        let [ours, python @ ..] = &samples[..] else { unreachable!() };
        let rate = |name: String| Figure::of(name, "tokens/s", f64::from(PREFILL) / median(ours));
        let mut speed = rate(format!("{}, prefill of {PREFILL} tokens", self.name));
        let mut first = Figure::milliseconds(format!("{}, first token after {PREFILL}", self.name), ours);
        if let [python] = python {
            speed = speed.speed_beside(TORCH, ours, python);
            first = first.cost_beside(TORCH, ours, python);
        }
        group.figures.extend([speed, first]);
        Ok(())
    }
}

/// Decode steps and prefill beside llama.cpp's with a file of the same types and shape.
#[cfg(feature = "llamacpp")]
fn beside_llamacpp(group: &mut Group, ours: &CandleBackend, models: &Path) -> Result<()> {
    use crate::llamacpp::gguf::{self, Weights};
    use avp_backend_llamacpp::{LlamaCppBackend, LoadOptions};

    const LLAMACPP: &str = "llama.cpp";
    let path = gguf::file("qwen2.5-0.5b", &Shape::HALF_B, Weights::F16, models)?;
    let theirs = LlamaCppBackend::load(&path, &LoadOptions::default())?;
    let tokens = prompt();
    let sequence = |backend: &dyn Backend| -> Result<_> {
        let mut sequence = backend.new_sequence(PROMPT.len() + ROUNDS + 8)?;
        sequence.forward(Input::Tokens(&PROMPT))?;
        Ok(RefCell::new(sequence))
    };
    let (here, there) = (sequence(ours)?, sequence(&theirs)?);
    let decode = |backend: &dyn Backend, sequence: &RefCell<Box<dyn Sequence>>| {
        Ok(backend.logits(&sequence.borrow_mut().forward(Input::Tokens(&PROMPT[..1]))?)?)
    };
    let mut steps: Vec<Side<'_>> =
        vec![Box::new(|| seconds(|| decode(ours, &here))), Box::new(|| seconds(|| decode(&theirs, &there)))];
    let steps = alternate_warm(ROUNDS, &mut steps)?;
    let mut prefill: Vec<Side<'_>> =
        vec![Box::new(|| seconds(|| read(ours, &tokens))), Box::new(|| seconds(|| read(&theirs, &tokens)))];
    let prefill = alternate(LONG_ROUNDS, &mut prefill)?;
    let ([step, their_step], [reading, their_reading]) = (&steps[..], &prefill[..]) else { unreachable!() };
    group.figures.extend([
        Figure::milliseconds("f16, decode step", step).cost_beside(LLAMACPP, step, their_step),
        Figure::of(
            format!("f16, prefill of {PREFILL} tokens"),
            "tokens/s",
            f64::from(PREFILL) / median(reading),
        )
        .speed_beside(LLAMACPP, reading, their_reading),
    ]);
    Ok(())
}

#[cfg(not(feature = "llamacpp"))]
fn beside_llamacpp(_: &mut Group, _: &CandleBackend, _: &Path) -> Result<()> {
    Ok(())
}

/// The prompt that figures of prefill are of.
fn prompt() -> Vec<u32> {
    (0..PREFILL).map(|i| i * 97 % 150_000).collect()
}

/// Logits behind a prompt, in a sequence of its own.
fn read(backend: &dyn Backend, tokens: &[u32]) -> Result<Vec<f32>> {
    let mut sequence = backend.new_sequence(tokens.len())?;
    Ok(backend.logits(&sequence.forward(Input::Tokens(tokens))?)?)
}

/// `tests/python/bench_torch.py` with the same weights.
struct Torch(Peer);

impl Torch {
    /// Loads the model there, or notes in `group` why there is none.
    fn start(
        python: &Path,
        folder: &Path,
        dtype: &str,
        threads: usize,
        group: &mut Group,
    ) -> Result<Option<Self>> {
        let mut peer = Peer::start_with(python, "bench_torch.py", threads)?;
        let folder = folder.to_str().context("the temporary folder's name is not UTF-8")?;
        let request =
            json!({ "op": "load", "folder": folder, "dtype": dtype, "threads": threads, "prompt": PROMPT });
        let answer = peer.ask(&request)?;
        if let Some(missing) = answer.get("missing").and_then(Value::as_str) {
            group.note(format!("the columns of torch and transformers are missing: {missing}"));
            return Ok(None);
        }
        Ok(Some(Self(peer)))
    }

    /// How far hidden state and projection of the two sides are apart: they are to do the same work.
    fn compare(&mut self, engine: &Engine<'_>, hidden: &[f32]) -> Result<String> {
        let answer = self.0.ask(&json!({ "op": "values" }))?;
        let values = |key: &str| -> Result<Vec<f32>> {
            Ok(serde_json::from_value(answer.get(key).cloned().unwrap_or(Value::Null))?)
        };
        let embedding = engine.projection.apply(engine.backend, hidden)?;
        let version = answer.get("version").and_then(Value::as_str).unwrap_or_default();
        Ok(format!(
            "{}: beside {version}: hidden states differ by at most {:.1e} of at most {:.1}, projections by {:.1e}",
            engine.name,
            farthest(hidden, &values("hidden")?),
            hidden.iter().copied().map(f32::abs).fold(0.0, f32::max),
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
