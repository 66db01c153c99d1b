//! The demo models' speed, as information.

use anyhow::Result;
use avp_backend::{Backend, Input};
use avp_backend_candle::{CandleBackend, LoadOptions};

use crate::measure::{Side, alternate, median, seconds};
use crate::report::{Figure, Group, root};

const MODELS: [&str; 3] = ["avp-demo-qwen2-s", "avp-demo-qwen2-m", "avp-demo-llama"];
const ROUNDS: usize = 5;
const PREFILL: u32 = 256;
const DECODE: u32 = 64;

/// Tokens per second of prefill and of decode.
pub(crate) fn run() -> Result<Group> {
    let mut group = Group::new("Demo models, f32");
    for model in MODELS {
        let folder = root().join("models").join(model);
        if !folder.is_dir() {
            group.note(format!("{model} is not there"));
            continue;
        }
        let backend = CandleBackend::load(&folder, &LoadOptions::default())?;
        let ids: Vec<u32> = (0..PREFILL).map(|i| 3 + i % 250).collect();
        let decode = || {
            let mut sequence = backend.new_sequence((PREFILL + DECODE) as usize)?;
            let mut hidden = sequence.forward(Input::Tokens(&ids))?;
            seconds(|| {
                for _ in 0..DECODE {
                    let id = most_probable(&backend.logits(&hidden)?);
                    hidden = sequence.forward(Input::Tokens(&[id]))?;
                }
                Ok(())
            })
        };
        let prefill = || {
            let mut sequence = backend.new_sequence(PREFILL as usize)?;
            seconds(|| Ok(sequence.forward(Input::Tokens(&ids))?))
        };
        let mut sides: [Side<'_>; 2] = [Box::new(prefill), Box::new(decode)];
        let samples = alternate(ROUNDS, &mut sides)?;
        for (what, tokens, seconds) in [("prefill", PREFILL, &samples[0]), ("decode", DECODE, &samples[1])] {
            let rate = f64::from(tokens) / median(seconds);
            group.figures.push(Figure::of(format!("{model}, {what}"), "tokens/s", rate));
        }
    }
    group.note(format!(
        "information without a comparison: prefill of {PREFILL} tokens, then {DECODE} greedy tokens"
    ));
    Ok(group)
}

fn most_probable(logits: &[f32]) -> u32 {
    let best = (0..).zip(logits).max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(id, _)| id)
}
