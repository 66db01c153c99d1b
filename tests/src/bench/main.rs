//! `avp-bench`: every figure beside something measured in the same run.
//!
//! Prints a table, and writes JSON (`--json`) and a self-contained HTML page (`--html`). `cargo xtask bench` calls
//! it. Each figure is a median over rounds in which both sides take turns; ratios are medians of the ratios
//! within a round, so that a change of load falls on both sides. Nothing here fails because of a time.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

#[cfg(feature = "engine")]
mod cache;
mod codec;
#[cfg(feature = "engine")]
mod demo;
#[cfg(feature = "engine")]
mod engine;
mod html;
#[cfg(feature = "llamacpp")]
mod llamacpp;
mod measure;
mod peer;
#[cfg(feature = "engine")]
mod projection;
mod report;
#[cfg(feature = "engine")]
mod shape;
mod transports;
mod wire;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::peer::Peer;
use crate::report::{Group, Report};

/// Measures speed and memory, each figure beside something run in the same minute.
#[derive(Parser)]
#[command(name = "avp-bench")]
struct Args {
    /// Write all figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write one self-contained page with plots.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A Python with avp==0.6.2, and torch and transformers for the engine. Without it these columns stay
    /// empty.
    #[arg(long, value_name = "PY")]
    python: Option<PathBuf>,
    /// Where model files that are made for the benches are kept; a temporary folder if none. 1.6 GB for llama.cpp.
    #[arg(long, value_name = "FOLDER")]
    models: Option<PathBuf>,
    /// Measure only this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Frames of 390 MiB, beside the Python SDK.
    Wire,
    /// Head and frame of 16 KiB, beside the Python SDK.
    Small,
    /// Frames of 1 KiB to 1 GiB, beside each other and beside a checksum pass.
    Codec,
    /// Export and import of a KV cache, beside memcpy.
    #[cfg(feature = "engine")]
    Cache,
    /// The candle backend on the Qwen2.5-0.5B shape in all types, beside the memory's bandwidth and `transformers`.
    #[cfg(feature = "engine")]
    Engine,
    /// Projection between two models, beside one pass of logits and the Python SDK.
    #[cfg(feature = "engine")]
    Projection,
    /// The llama.cpp backend on the Qwen2.5-0.5B shape, beside plain calls of llama.cpp and beside memcpy.
    #[cfg(feature = "llamacpp")]
    #[value(name = "llamacpp")]
    LlamaCpp,
    /// TCP on loopback, beside bare sockets.
    Tcp,
    /// TLS on loopback, beside bare rustls.
    Tls,
    /// QUIC on loopback, beside bare quinn.
    Quic,
    /// HTTP on loopback, beside bare sockets and the Python SDK.
    Http,
    /// Shared memory, beside memcpy.
    #[cfg(target_os = "linux")]
    Shm,
    /// Round trips of a small frame, beside bare ones.
    Trips,
    /// The demo models' speed.
    #[cfg(feature = "engine")]
    Demo,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let parts = match args.only.as_slice() {
        [] => Part::value_variants(),
        only => only,
    };
    let mut report = Report::start(args.python.is_some());
    for part in parts {
        eprintln!("measuring {part:?} ..");
        let group = run(*part, &args).with_context(|| format!("measuring {part:?}"))?;
        println!("{}", report::table(&group));
        report.groups.push(group);
    }
    report.finish();
    println!("{}", report.about());
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report)? + "\n";
        write(path, &json)?;
    }
    if let Some(path) = &args.html {
        write(path, &html::page(&report))?;
    }
    Ok(())
}

fn run(part: Part, args: &Args) -> Result<Group> {
    let python = args.python.as_deref();
    let models = || args.models.clone().unwrap_or_else(|| std::env::temp_dir().join("avp-bench-models"));
    let sdk = || python.map(|python| Peer::start(python, "bench_sdk.py")).transpose();
    match part {
        Part::Wire => wire::large(sdk()?.as_mut()),
        Part::Small => wire::small(sdk()?.as_mut()),
        Part::Codec => codec::run(),
        #[cfg(feature = "engine")]
        Part::Cache => cache::run(),
        #[cfg(feature = "engine")]
        Part::Engine => engine::run(python, &models()),
        #[cfg(feature = "engine")]
        Part::Projection => projection::run(python),
        #[cfg(feature = "llamacpp")]
        Part::LlamaCpp => llamacpp::run(&models()),
        Part::Tcp => transports::streams::tcp(),
        Part::Tls => transports::streams::tls(),
        Part::Quic => transports::quic::run(),
        Part::Http => transports::http::run(python),
        #[cfg(target_os = "linux")]
        Part::Shm => transports::shm::run(),
        Part::Trips => transports::trips::run(),
        #[cfg(feature = "engine")]
        Part::Demo => demo::run(),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
