//! Transfers through faults, as a table:
//! `cargo run --release -p avp-transport --features testing --example chaos -- --transport avp+tcp://127.0.0.1:0
//! --transfers 1000 --seed 1`
//!
//! `--transport pipe` runs over pipes in this process. Ends with 1 where a promise was broken.
#![allow(clippy::print_stdout)]

use std::env;
use std::process::ExitCode;

use avp_transport::testing::ChaosRun;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<ExitCode, Failure> {
    let (mut transport, mut transfers, mut seed) = ("avp+tcp://127.0.0.1:0".to_owned(), 1000, 1);
    let mut arguments = env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--transport" => transport = value,
            "--transfers" => transfers = value.parse()?,
            "--seed" => seed = value.parse()?,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let url = if transport == "pipe" { None } else { Some(transport.parse()?) };
    // Threads, warm buffers and arenas are made once.
    ChaosRun::new(url.clone(), seed + 1, 32).run().await?;
    let report = ChaosRun::new(url, seed, transfers).run().await?;
    println!("{report}");
    let broken = report.broken_promises();
    for promise in &broken {
        println!("BROKEN: {promise}");
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
