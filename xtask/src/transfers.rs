//! `cargo xtask transfers`: what becomes of answers between models of different kinds, in two processes, for all ordered pairs of
//! demo models, both engines, and both sets of questions, as Markdown tables.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::llamacpp;
use crate::sh::{self, cargo, command, target};
use crate::test::BUILD;

const MODELS: [&str; 3] = ["avp-demo-qwen2-s", "avp-demo-qwen2-m", "avp-demo-llama"];
const ENGINES: [&str; 2] = ["candle,candle", "llamacpp,llamacpp"];
/// Sets of questions, and how many there are.
const SETS: [(&str, &str); 2] = [("words", "1000"), ("sentences", "510")];
const WAYS: [&str; 6] = ["alone", "direct", "text", "latent", "gated", "in_process"];

pub(crate) fn run(args: &[&str]) -> Result<()> {
    llamacpp::ready()?;
    sh::run("build", &mut cargo(&[&["build"], &BUILD[..]].concat()))?;
    for (set, count) in SETS {
        for engines in ENGINES {
            say(&format!("\n### {set}, {engines}\n"))?;
            say(
                "| source -> receiver | alone | direct | text | latent | gated | as latent | in process | identical |",
            )?;
            say("|---|---:|---:|---:|---:|---:|---:|---:|---:|")?;
            for from in MODELS {
                for to in MODELS.into_iter().filter(|to| *to != from) {
                    say(&row(from, to, engines, set, count, args)?)?;
                }
            }
        }
    }
    Ok(())
}

fn row(from: &str, to: &str, engines: &str, set: &str, count: &str, args: &[&str]) -> Result<String> {
    let program = target().join("release").join("avp");
    let own = [
        &["--json", "demo", "--cross-model", "--in-process", "--model", from, "--to", to][..],
        &["--pair", engines, "--set", set, "--questions", count],
        args,
    ];
    let output = command(program, &own.concat()).output().context("cannot start avp")?;
    ensure!(output.status.success(), "{from} -> {to}: {}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout)?;
    let cell = |way: &str| {
        let way = &found[way];
        let [low, high] = [0, 1].map(|end| way["interval"][end].as_f64().unwrap_or_default() * 100.0);
        format!("{}/{} ({low:.1} to {high:.1} %)", way["correct"], way["of"])
    };
    let [alone, direct, text, latent, gated, here] = WAYS.map(cell);
    let (as_latent, identical) = (&found["gated"]["as_latent"], &found["identical"]);
    let short = |name: &str| name.trim_start_matches("avp-demo-").to_owned();
    Ok(format!(
        "| {} -> {} | {alone} | {direct} | {text} | {latent} | {gated} | {as_latent}/{count} | {here} | {identical}/{count} |",
        short(from),
        short(to)
    ))
}

/// The tables go where they can be kept.
fn say(line: &str) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{line}")?)
}
