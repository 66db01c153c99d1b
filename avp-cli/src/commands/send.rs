//! `avp send`.

use std::time::Instant;

use anyhow::Result;
use avp::{Peer, Retry, open_context};
use serde_json::json;

use super::{failed, model};
use crate::args::SendArgs;
use crate::output;
use crate::progress::Bar;

pub(crate) async fn run(args: SendArgs, json: bool) -> Result<()> {
    let transport = args.connect.options()?;
    let context = open_context(&args.file, &model::pool())?;
    let bar = Bar::default();
    let hello = Peer::hello_for(&args.name, Some(&context));
    let retry = Retry { times: args.retry.retries, ..Retry::default() };
    let started = Instant::now();
    let attempt = async || {
        let mut peer = Peer::connect(&args.connect.to, hello.clone(), &transport).await?;
        let total = context.kv_bytes();
        let sent = peer.hand_over(&context, &|h| bar.moving("send", h.slabs, h.of, total)).await?;
        // The context is there; a peer that does not end its side takes nothing from it.
        let _ = peer.close().await;
        Ok(sent)
    };
    let outcome = retry.run_telling(attempt, |error| bar.waiting(error)).await;
    bar.clear();
    let sent = outcome.map_err(|error| failed(error, "avp recv"))?;
    let seconds = started.elapsed().as_secs_f64();
    if json {
        return Ok(output::object(&json!({
            "transfer": context.transfer().as_str(),
            "tokens": context.kv_header().seq_len,
            "slabs": context.manifest().slab_count(),
            "bytes_sent": sent,
            "seconds": seconds,
        }))?);
    }
    let tokens = context.kv_header().seq_len;
    output::line(&format!("{tokens} tokens handed over: {} sent in {seconds:.1} s", output::bytes(sent)))?;
    Ok(())
}
