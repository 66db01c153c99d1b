//! `avp serve`.

use anyhow::Result;
use avp::{Agent, ServeOptions, Served, TransportUrl, serve};
use serde_json::json;

use super::{ended, model};
use crate::args::ServeArgs;
use crate::{log, metrics, output};

pub(crate) async fn run(args: ServeArgs, json: bool) -> Result<()> {
    log::start(args.log.level);
    let mut options = ServeOptions::default();
    options.transport = args.listen.options()?;
    if let TransportUrl::Http { .. } = args.listen.listen.parse()? {
        options.metrics = Some(metrics::start()?);
    }
    let backend = model::load(&args.model.model, &args.model.engine)?;
    let model_id = backend.info().identity.model_id.clone();
    let agent = Agent::new(&args.name, backend).with_cache_dir(model::cache_dir());
    options.policy = model::policy(args.require_verified);
    options.max_sessions = usize::from(args.max_sessions);
    options.max_generations = usize::from(args.max_generations);
    let server = serve(agent, &args.listen.listen, options, move |served| report(served, json)).await?;
    let url = server.url().to_string();
    if json {
        output::object(&json!({ "listening": url, "model": model_id }))?;
    } else {
        output::line(&format!("{} listens at {url}; Ctrl-C ends it", output::printable(&model_id)))?;
    }
    server.run(ended(args.until_stdin_closes)).await?;
    Ok(())
}

/// One line per question, never its text.
fn report(served: &Served, json: bool) {
    metrics::answered(served);
    if !json {
        let peer: String = served.peer.chars().filter(|c| !c.is_control()).collect();
        let handover = match served.handover.as_str() {
            "" | "none" => String::new(),
            mode => format!(" as {mode}"),
        };
        let why = served.why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        output::note(&format!(
            "{peer}: {} tokens taken over{handover}, {} processed, {} written{why}",
            served.context_tokens, served.prompt_tokens, served.answer_tokens
        ));
    }
}
