//! `avp recv`.

use std::path::Path;

use anyhow::{Result, bail};
use avp::{FileError, ReceiveEvent, ReceiveInto, ReceiveOptions, receive};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{ended, model};
use crate::args::RecvArgs;
use crate::progress::Bar;
use crate::{log, output};

pub(crate) async fn run(args: RecvArgs, json: bool) -> Result<()> {
    log::start(args.log.level);
    check_target(&args)?;
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
        output::line(&format!(
            "takes contexts of {} at {url}; Ctrl-C ends it",
            output::printable(&model_id)
        ))?;
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

/// Tells what would otherwise come out when a context is here and cannot be kept.
fn check_target(args: &RecvArgs) -> Result<()> {
    let folder = match (&args.output, &args.folder) {
        (Some(file), _) if file.is_dir() => bail!("{} is a folder; give a file, or --folder", file.display()),
        (Some(file), _) if !args.force && file.symlink_metadata().is_ok() => {
            bail!("{} exists; give --force to replace it, or another name", file.display())
        }
        (Some(file), _) => file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new(".")),
        (None, folder) => folder.as_deref().unwrap_or(Path::new(".")),
    };
    // What comes is written beside its place first.
    let written = tempfile::NamedTempFile::new_in(folder).map(drop);
    let path = args.output.as_deref().unwrap_or(folder).to_owned();
    // Without the other file's name.
    Ok(written.map_err(|error| FileError::Io { path, source: error.kind().into() })?)
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
