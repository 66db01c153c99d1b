//! `avp ask`.

use anyhow::Result;
use avp::{Answer, Ask, Handover, Peer, TransportOptions, read_frame, text_of};
use serde_json::{Value, json};

use super::model;
use crate::args::AskArgs;
use crate::output;

pub(crate) async fn run(args: AskArgs, json: bool) -> Result<()> {
    let context = args.context.as_ref().map(|file| read_frame(file, &model::pool())).transpose()?;
    let text = args.text.or_else(|| context.as_ref().and_then(|frame| text_of(&frame.metadata)));
    let mut transport = TransportOptions::default();
    transport.allow_remote = args.allow_remote;
    let hello = Peer::hello_for(&args.name, context.as_ref())?;
    let mut peer = Peer::connect(&args.to, hello, &transport).await?;
    let resolution = peer.resolution().path.to_string();
    let ask = Ask { prompt: args.prompt, context, text, options: args.sampling.into() };
    let answer = peer.ask(&ask).await?;
    peer.close().await?;
    if json {
        return Ok(output::object(&record(&answer, &resolution))?);
    }
    output::line(&answer.text)?;
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
