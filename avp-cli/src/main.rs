//! The `avp` program: thin over the `avp` crate.

mod args;
mod commands;
mod demo;
mod log;
mod metrics;
mod output;
mod progress;

use std::io;
use std::panic;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    quiet_tokenizers();
    let json = cli.json;
    let result = match cli.command {
        Command::Think(args) => commands::think::run(args, json),
        Command::Generate(args) => commands::generate::run(args, json),
        Command::Inspect(args) => commands::inspect::run(args, json),
        Command::Cert(args) => commands::cert::run(args, json),
        Command::Models(args) => commands::models::run(args, json),
        Command::Map(args) => commands::map::run(args, json),
        Command::Bench(args) => commands::bench::run(&args, json),
        Command::ProbeGguf(args) => commands::model::try_file(&args.file),
        Command::Serve(args) => commands::serve::run(args, json).await,
        Command::Ask(args) => commands::ask::run(args, json).await,
        Command::Send(args) => commands::send::run(args, json).await,
        Command::Recv(args) => commands::recv::run(args, json).await,
        Command::Demo(args) => demo::run(args, json).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // `avp inspect .. | head -1`: whoever reads has read enough.
        Err(error) if is_closed_stdout(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error, json);
            ExitCode::FAILURE
        }
    }
}

/// Only what goes to stdout fails with an IO error as it stands; those of files and connections say which one.
fn is_closed_stdout(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// The tokenizers library panics on odd files. Its panics are caught and told as errors, so they need no report.
fn quiet_tokenizers() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|at| at.file().contains("/tokenizers-")) {
            report(info);
        }
    }));
}
