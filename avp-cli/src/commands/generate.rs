//! `avp generate`.

use std::fs::File;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use avp::{
    Agent, Backend, GenerateEvent, GenerateOptions, Generation, Grammar, Projected, Prompt, Saved, generate,
    open_saved, project_into, text_of, with_text,
};
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
    let (context, prompt) = match (&args.context, &args.source) {
        (Some(file), Some(source)) => told(file, source, &args, &backend)?,
        (Some(file), None) => (Some(model::load_context(file, backend.as_ref(), policy)?), args.prompt),
        (None, _) => (None, args.prompt),
    };
    let options = GenerateOptions { grammar, ..args.sampling.into() };
    let bar = Bar::default();
    let mut printed = Ok(());
    let written =
        generate(backend.as_ref(), &Prompt::User(prompt), context.as_ref(), &options, &mut |event| {
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

/// What the model is told by hidden states of another one, and what it is asked: behind their text, if that is better.
fn told(
    file: &Path,
    source: &str,
    args: &GenerateArgs,
    target: &Arc<dyn Backend>,
) -> Result<(Option<avp::Context>, String)> {
    let Saved::Hidden(states, metadata) = open_saved(file, &model::pool())? else {
        bail!(
            "{} holds a KV cache, which no other model can take; think with `--output hidden`, or leave --source out",
            file.display()
        );
    };
    let source = model::load(source, &args.model.engine)?;
    let source = model::agent("source", source, args.maps.map_dir.as_ref());
    let policy = model::policy(args.require_verified);
    let hidden = args.gate.outgoing(&source, *states, policy).with_context(|| file.display().to_string())?;
    match project_into(&hidden, &Agent::new("target", Arc::clone(target)))? {
        Projected::Context(context, handover) => {
            output::note(&format!("taken over as {handover}"));
            Ok((Some(context), args.prompt.clone()))
        }
        Projected::Text(why) => {
            let Some(text) = text_of(&metadata) else {
                bail!(
                    "{why}; the file has no text to fall back to: think without --no-text, or pass the gate by"
                )
            };
            output::note(&format!("taken over as JSON text ({why})"));
            Ok((None, with_text(&text, &args.prompt)))
        }
        _ => bail!("this build does not know what became of the hidden states"),
    }
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
