//! `avp bench`: how fast a model of a well-known shape is, beside what memory allows.

mod figure;
mod measure;

use anyhow::{Result, ensure};
use avp::{Backend, Shape, random_backend};
use serde_json::{Value, json};

use crate::args::BenchArgs;
use crate::output;
use figure::Figure;
use measure::{BEHIND, Bench};

pub(crate) fn run(args: &BenchArgs, json: bool) -> Result<()> {
    check_window(args.shape, &args.prefill)?;
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
    figure::table(&figures).iter().try_for_each(|line| output::line(line))?;
    Ok(())
}

/// Before gigabytes of weights are made.
fn check_window(shape: Shape, lengths: &[u32]) -> Result<()> {
    let window = shape.max_positions();
    for length in lengths {
        ensure!(
            *length as usize <= window,
            "a prefill of {length} tokens goes beyond the {window} positions of {shape}; give --prefill fewer"
        );
    }
    Ok(())
}
