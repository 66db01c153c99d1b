//! `avp ask`.

use anyhow::Result;
use avp::{Answer, Ask, Handover, OutgoingContext, Peer, Retry, open_context, text_of};
use serde_json::{Value, json};

use super::{failed, model};
use crate::args::AskArgs;
use crate::output;
use crate::progress::Bar;

/// Most bytes that an answer may take here, which is text of at most 4096 tokens and their ids.
const MAX_ANSWER: u64 = 16 << 20;

pub(crate) async fn run(args: AskArgs, json: bool) -> Result<()> {
    let mut transport = args.connect.options()?;
    transport.limits.memory_budget = MAX_ANSWER;
    let context = args.context.as_ref().map(|file| open_context(file, &model::pool())).transpose()?;
    let text = args.text.or_else(|| context.as_ref().and_then(|context| text_of(context.metadata())));
    let hello = Peer::hello_for(&args.name, context.as_ref());
    let ask = Ask { prompt: args.prompt, context, text, options: args.sampling.into() };
    let retry = Retry { times: args.retry.retries, ..Retry::default() };
    let bar = Bar::default();
    let total = ask.context.as_ref().map_or(0, OutgoingContext::kv_bytes);
    let attempt = async || {
        let mut peer = Peer::connect(&args.connect.to, hello.clone(), &transport).await?;
        let resolution = peer.resolution().path.to_string();
        let answer = peer.ask_with(&ask, &|h| bar.moving("send", h.slabs, h.of, total)).await?;
        Ok((answer, resolution, peer))
    };
    let outcome = retry.run_telling(attempt, |error| bar.waiting(error)).await;
    bar.clear();
    let (answer, resolution, peer) = outcome.map_err(|error| failed(error, "avp serve"))?;
    if json {
        output::object(&record(&answer, &resolution))?;
    } else {
        print(&answer)?;
    }
    // The answer is here; a peer that does not end its side takes nothing from it.
    let _ = peer.close().await;
    Ok(())
}

fn print(answer: &Answer) -> Result<()> {
    output::line(&output::printable_lines(&answer.text))?;
    if answer.handover != Handover::Nothing {
        let unverified = answer.handover == Handover::Kv && !answer.verified;
        let note = if unverified { ", unverified: one side has no weights fingerprint" } else { "" };
        output::note(&format!("handed over as {}{note}", answer.handover));
    }
    Ok(())
}

fn record(answer: &Answer, resolution: &str) -> Value {
    let why = match &answer.handover {
        Handover::Text { why } => Some(why),
        _ => None,
    };
    json!({
        "text": answer.text,
        "tokens": answer.tokens,
        "stop": answer.stop,
        "handover": answer.handover.as_str(),
        "why": why,
        "resolution": resolution,
        "verified": answer.verified,
        "prompt_tokens": answer.prompt_tokens,
        "context_tokens": answer.context_tokens,
        "bytes_sent": answer.bytes_sent,
        "seconds": answer.elapsed.as_secs_f64(),
    })
}
