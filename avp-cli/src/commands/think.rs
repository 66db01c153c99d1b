//! `avp think`.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use avp::{HiddenStates, Prompt, ThinkOptions, open_saved, save_context, save_hidden, text_of, think};
use serde_json::json;

use super::model;
use crate::args::{OutputArg, ThinkArgs};
use crate::output;
use crate::progress::Bar;

pub(crate) fn run(args: ThinkArgs, json: bool) -> Result<()> {
    if let Some(hash) = &args.model_hash {
        let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(is_hash, "--model-hash: expected 64 hex digits, got {} characters", hash.chars().count());
    }
    let pool = model::pool();
    let backend = model::load(&args.model.model, &args.model.engine)?;
    let policy = model::policy(args.require_verified);
    let prior =
        args.context.as_ref().map(|f| model::load_context(f, backend.as_ref(), policy)).transpose()?;
    let hidden_positions = if args.output == OutputArg::Hidden { args.positions.count() } else { 0 };
    let options = ThinkOptions { steps: args.steps, cache_dir: model::cache_dir(), hidden_positions };
    let bar = Bar::default();
    let started = Instant::now();
    let prompt = Prompt::User(args.prompt.clone());
    let thought =
        think(backend.as_ref(), &prompt, prior.as_ref(), &options, &mut |progress| bar.thinking(progress));
    bar.clear();
    let context = thought.context("cannot think")?;
    let elapsed = started.elapsed();
    let text = if args.no_text { None } else { text_behind(&args, &pool)? };
    let (hash, text_behind) = (args.model_hash.as_deref(), text.as_deref());
    let bytes = match context.hidden() {
        Some(states) => save_hidden(states, &args.file, hash, text_behind)?,
        None => save_context(&context, &args.file, hash, text_behind, &pool)?,
    };
    let positions = context.hidden().map(HiddenStates::len);
    let file = args.file.display().to_string();
    if json {
        return Ok(output::object(&json!({
            "file": file,
            "bytes": bytes,
            "tokens": context.len(),
            "latent_steps": context.latent_steps(),
            "holds": if positions.is_some() { "hidden" } else { "kv" },
            "positions": positions,
            "model": context.identity().model_id,
            "model_hash": args.model_hash.as_ref().unwrap_or(&context.identity().model_hash),
            "weights": context.weights(),
            "verification": context.verification().as_str(),
            "text": text.is_some(),
            "seconds": elapsed.as_secs_f64(),
        }))?);
    }
    let (tokens, steps, size) = (context.len(), context.latent_steps(), output::bytes(bytes));
    let what = positions.map_or_else(String::new, |n| {
        format!("hidden states of {n} position{}, ", if n == 1 { "" } else { "s" })
    });
    output::line(&format!(
        "{file}: {what}{tokens} tokens ({steps} of them latent steps), {size}, in {:.2} s",
        elapsed.as_secs_f64()
    ))?;
    Ok(())
}

/// What the model has read in all: the prior context's text, where it has one, and the prompt.
fn text_behind(args: &ThinkArgs, pool: &avp::BufferPool) -> Result<Option<String>> {
    let Some(file) = &args.context else { return Ok(Some(args.prompt.clone())) };
    let prior = text_of(open_saved(file, pool)?.metadata());
    Ok(prior.map(|text| format!("{text}\n{}", args.prompt)))
}
