//! `avp generate`.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context as _, Result};
use avp::{GenerateEvent, GenerateOptions, Generation, Grammar, Prompt, generate, load_context};
use serde_json::json;

use super::model;
use crate::args::GenerateArgs;
use crate::output;
use crate::progress::Bar;

pub(crate) fn run(args: GenerateArgs, json: bool) -> Result<()> {
    // Before the model, which takes longer.
    let grammar = args.grammar.as_deref().map(read_grammar).transpose()?;
    let backend = model::load(&args.model.model, &args.model.engine)?;
    let policy = model::policy(args.require_verified);
    let context = args
        .context
        .as_ref()
        .map(|f| load_context(f, backend.as_ref(), policy, &model::pool()))
        .transpose()?;
    let options = GenerateOptions { grammar, ..args.sampling.into() };
    let bar = Bar::default();
    let mut printed = Ok(());
    let written =
        generate(backend.as_ref(), &Prompt::User(args.prompt), context.as_ref(), &options, &mut |event| {
            match event {
                GenerateEvent::Progress(progress) => bar.thinking(progress),
                GenerateEvent::Text(text) => {
                    bar.clear();
                    if !json {
                        printed = output::piece(&output::printable_lines(text));
                    }
                }
                _ => {}
            }
            if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    bar.clear();
    let generation = written.context("cannot generate")?;
    if let Err(error) = printed {
        return closed_pipe(error);
    }
    if json {
        let verification = context.as_ref().map(|context| context.verification().as_str());
        return Ok(output::object(&record(&generation, verification))?);
    }
    output::line("")?;
    Ok(())
}

fn record(generation: &Generation, verification: Option<&str>) -> serde_json::Value {
    json!({
        "text": generation.text,
        "tokens": generation.tokens,
        "stop": generation.stop.as_str(),
        "prompt_tokens": generation.prompt_tokens,
        "context_tokens": generation.context_tokens,
        "verification": verification,
        "prefill_seconds": generation.prefill_time.as_secs_f64(),
        "decode_seconds": generation.decode_time.as_secs_f64(),
    })
}

fn read_grammar(path: &Path) -> Result<Grammar> {
    // More than any grammar that is taken, and no more: the path may be that of a device.
    const MOST: u64 = 1 << 20;
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text));
    read.with_context(|| format!("cannot read the grammar {}", path.display()))?;
    let text = String::from_utf8(text)
        .with_context(|| format!("{} is no grammar: it is not UTF-8", path.display()))?;
    text.parse().with_context(|| format!("{} is no grammar", path.display()))
}

/// `avp generate .. | head -1` ends without a complaint.
fn closed_pipe(error: io::Error) -> Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error).context("cannot print") }
}
