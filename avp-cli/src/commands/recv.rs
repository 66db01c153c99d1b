//! `avp recv`.

use anyhow::Result;
use avp::{ReceiveEvent, ReceiveInto, ReceiveOptions, receive};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{ended, model};
use crate::args::RecvArgs;
use crate::output;
use crate::progress::Bar;

pub(crate) async fn run(args: RecvArgs, json: bool) -> Result<()> {
    let mut options = ReceiveOptions::default();
    options.transport = args.listen.options()?;
    options.transport.limits.memory_budget = args.window << 20;
    options.policy = model::policy(args.require_verified);
    let info = model::describe(&args.model)?;
    let model_id = info.identity.model_id.clone();
    let one = args.output.is_some();
    let into = match (args.output, args.folder) {
        (Some(file), _) => ReceiveInto::File(file),
        (None, folder) => ReceiveInto::Folder(folder.unwrap_or_default()),
    };
    let (events, heard) = unbounded_channel();
    let on = move |event| drop(events.send(event));
    let receiver = receive(&args.name, info, &args.listen.listen, into, options, on).await?;
    let url = receiver.url().to_string();
    if json {
        output::object(&json!({ "listening": url, "model": model_id }))?;
    } else {
        output::line(&format!("takes contexts of {model_id} at {url}; Ctrl-C ends it"))?;
    }
    let done = report(heard, one, json);
    let stop = async {
        tokio::select! {
            () = done => {}
            () = ended(false) => {}
        }
    };
    Ok(receiver.run(stop).await?)
}

/// Shows what comes; where `one` is wanted, ready when it is there and its sender has heard so.
async fn report(mut heard: UnboundedReceiver<ReceiveEvent>, one: bool, json: bool) {
    let bar = Bar::default();
    while let Some(event) = heard.recv().await {
        match event {
            ReceiveEvent::Progress { slabs, of, bytes } => {
                bar.moving("receive", slabs.into(), of.into(), bytes);
            }
            ReceiveEvent::Received { path, from } => {
                bar.clear();
                let (path, from) = (path.display().to_string(), output::printable(&from));
                let told = match json {
                    true => output::object(&json!({ "received": path, "from": from })),
                    false => output::line(&format!("{path}, from {from}")),
                };
                if told.is_err() {
                    return;
                }
            }
            ReceiveEvent::Left { delivered: true } if one => return,
            _ => {}
        }
    }
}
