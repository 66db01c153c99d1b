//! Prefill and decode through the trait, beside plain calls.

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use avp_backend::{Backend, Input};
use avp_backend_llamacpp::LlamaCppBackend;

use super::plain::{Context, Model, Threads};
use crate::measure::{Side, alternate, median, seconds};
use crate::report::{Bound, Figure, Group};

const PREFILL: usize = 512;
const PREFILL_ROUNDS: usize = 5;
/// Where decode begins, tokens of each round, and rounds.
const FROM: usize = 448;
const STEPS: usize = 16;
const DECODE_ROUNDS: usize = 9;
const MOMENT: Duration = Duration::from_millis(50);
/// What is asked of both.
const LEAST: Bound = Bound::RatioAtLeast(0.97);
const SIDES: [(Threads, &str); 2] =
    [(Threads::ForEachPass, "plain llama.cpp"), (Threads::Kept, "plain llama.cpp, threads kept")];

pub(super) fn measure(group: &mut Group, name: &str, backend: &LlamaCppBackend, path: &Path) -> Result<()> {
    let model = Model::load(path)?;
    let bench = Bench { backend, model: &model };
    group.note(format!("{name}: logits of both sides differ by at most {:.1e}", bench.difference()?));
    eprintln!("  {name}, prefill ..");
    let prefill = bench.prefill()?;
    eprintln!("  {name}, decode ..");
    let decode = bench.decode()?;
    let mut compare = |what: &str, tokens: usize, samples: &[Vec<f64>]| {
        let [ours, others @ ..] = samples else { return };
        for ((_, side), other) in SIDES.iter().zip(others) {
            let rate = tokens as f64 / median(ours);
            let figure = Figure::of(format!("{name}, {what}"), "tokens/s", rate);
            group.figures.push(figure.speed_beside(side, ours, other).target(LEAST));
        }
    };
    compare("prefill", PREFILL, &prefill);
    compare("decode", STEPS, &decode);
    Ok(())
}

pub(super) fn notes(group: &mut Group) {
    group.note(format!(
        "prefill: {PREFILL} tokens, median of {PREFILL_ROUNDS} alternating rounds, Backend::new_sequence and Sequence::forward beside llama_memory_clear and llama_decode in a context that is there; decode: {DECODE_ROUNDS} rounds of {STEPS} tokens between positions {FROM} and {}, through Sequence::forward and Backend::logits",
        FROM + STEPS * (DECODE_ROUNDS + 1)
    ));
}

struct Bench<'a> {
    backend: &'a LlamaCppBackend,
    model: &'a Model,
}

impl Bench<'_> {
    /// How far the logits of the two sides are apart behind some tokens: they are to do the same work.
    fn difference(&self) -> Result<f32> {
        let prompt = ids(64);
        let hidden = self.backend.new_sequence(PREFILL)?.forward(Input::Tokens(&prompt))?;
        let ours = self.backend.logits(&hidden)?;
        let mut context = Context::new(self.model, PREFILL, Threads::ForEachPass)?;
        let theirs = context.decode(&signed(&prompt))?;
        Ok(ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max))
    }

    fn prefill(&self) -> Result<Vec<Vec<f64>>> {
        let prompt = ids(PREFILL);
        let tokens = signed(&prompt);
        let ours = || {
            seconds(|| {
                let mut sequence = self.backend.new_sequence(PREFILL)?;
                let hidden = sequence.forward(Input::Tokens(&prompt))?;
                Ok((sequence, hidden))
            })
        };
        let mut sides: Vec<Side<'_>> = vec![Box::new(ours)];
        for (threads, _) in SIDES {
            let mut context = Context::new(self.model, PREFILL, threads)?;
            context.rest();
            let tokens = &tokens;
            sides.push(Box::new(move || {
                context.wake();
                let time = seconds(|| {
                    context.clear();
                    Ok(std::hint::black_box(context.decode(tokens)?).len())
                });
                context.rest();
                time
            }));
        }
        alternate(PREFILL_ROUNDS, &mut quietly(sides))
    }

    fn decode(&self) -> Result<Vec<Vec<f64>>> {
        let (prompt, steps) = (ids(FROM), ids(STEPS));
        let capacity = FROM + STEPS * (DECODE_ROUNDS + 1);
        let sequence = RefCell::new(self.backend.new_sequence(capacity)?);
        sequence.borrow_mut().forward(Input::Tokens(&prompt))?;
        let ours = || {
            let mut sequence = sequence.borrow_mut();
            seconds(|| {
                for id in &steps {
                    let hidden = sequence.forward(Input::Tokens(std::slice::from_ref(id)))?;
                    std::hint::black_box(self.backend.logits(&hidden)?);
                }
                Ok(())
            })
        };
        let mut sides: Vec<Side<'_>> = vec![Box::new(ours)];
        for (threads, _) in SIDES {
            let mut context = Context::new(self.model, capacity, threads)?;
            context.decode(&signed(&prompt))?;
            context.rest();
            let tokens = signed(&steps);
            sides.push(Box::new(move || {
                context.wake();
                let time = seconds(|| {
                    for token in &tokens {
                        std::hint::black_box(context.decode(std::slice::from_ref(token))?);
                    }
                    Ok(())
                });
                context.rest();
                time
            }));
        }
        alternate(DECODE_ROUNDS, &mut quietly(sides))
    }
}

/// The sides, each after a moment in which the threads of the one before go to sleep: they wait busily for a while.
fn quietly<'a>(sides: impl IntoIterator<Item = Side<'a>>) -> Vec<Side<'a>> {
    let after_a_moment = |mut side: Side<'a>| -> Side<'a> {
        Box::new(move || {
            std::thread::sleep(MOMENT);
            side()
        })
    };
    sides.into_iter().map(after_a_moment).collect()
}

/// Some token ids.
pub(super) fn ids(count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| 1000 + i * 7919 % 100_000).collect()
}

fn signed(ids: &[u32]) -> Vec<i32> {
    ids.iter().map(|id| id.cast_signed()).collect()
}
