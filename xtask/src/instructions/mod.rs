//! `cargo xtask bench --check` and `--baseline`: instructions of the codec's small calls, counted by callgrind.
//!
//! Counts do not depend on load, unlike times. They are of our own program, std's inlined code included, and how often
//! it calls the C library is counted beside them: what the C library does in `malloc` and `memcpy` depends on its version
//! and on the CPU. What is left depends on the compiler and the architecture, which the baseline names.

mod callgrind;
mod verdict;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use self::callgrind::{Counted, Valgrind};
use self::verdict::Verdict;
use crate::sh::{self, cargo, command, root, say, target};
use crate::test::BUILD;

/// Calls of the shorter and of the longer run.
const CALLS: [u64; 2] = [1_000, 3_000];

/// Counts, and what they were counted with.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Counts {
    rustc: String,
    target: String,
    valgrind: String,
    /// Of one call, by name: instructions, and calls of the C library.
    counts: BTreeMap<String, u64>,
}

/// Fails if anything takes over 5 % more than its baseline. Without valgrind it says so and is done.
pub(crate) fn check_if_possible() -> Result<()> {
    match Valgrind::find() {
        Ok(valgrind) => check_with(&valgrind),
        Err(error) => {
            say(&format!("==> instructions: skipped, {error}"));
            Ok(())
        }
    }
}

/// Fails if anything takes over 5 % more than its baseline.
pub(crate) fn check() -> Result<()> {
    check_with(&Valgrind::find()?)
}

/// Writes the counts of this tree as the baseline.
pub(crate) fn write() -> Result<()> {
    let counts = count(&Valgrind::find()?)?;
    for (name, count) in &counts.counts {
        say(&format!("    {name}: {count}"));
    }
    fs::write(baseline(), serde_json::to_string_pretty(&counts)? + "\n").context("writing the baseline")
}

fn check_with(valgrind: &Valgrind) -> Result<()> {
    let text =
        fs::read_to_string(baseline()).context("no baseline: `cargo xtask bench --baseline` writes one")?;
    let before: Counts = serde_json::from_str(&text).context("reading the baseline")?;
    let now = count(valgrind)?;
    let verdicts = verdict::compare(&before.counts, &now.counts);
    for (name, verdict) in &verdicts {
        say(&format!("    {name}: {}", verdict.text()));
    }
    if (&before.rustc, &before.target) != (&now.rustc, &now.target) {
        say(&format!(
            "    not held against the baseline, which is of {} for {}; this is {} for {}",
            before.rustc, before.target, now.rustc, now.target
        ));
        return Ok(());
    }
    if verdicts.values().any(Verdict::outdates) {
        say("    the baseline is outdated: `cargo xtask bench --baseline` writes it anew");
    }
    let slower: Vec<&str> =
        verdicts.iter().filter(|(_, verdict)| verdict.fails()).map(|(name, _)| name.as_str()).collect();
    ensure!(
        slower.is_empty(),
        "more than the baseline allows, or not counted: {}. If it has to be, `cargo xtask bench --baseline` writes it anew",
        slower.join(", ")
    );
    Ok(())
}

fn baseline() -> PathBuf {
    root().join("xtask").join("instructions.json")
}

fn count(valgrind: &Valgrind) -> Result<Counts> {
    // The tests build it with the same selection of packages.
    sh::run("build", &mut cargo(&[&["build"], &BUILD[..], &["--example", "instructions"]].concat()))?;
    let program = target().join("release").join("examples").join("instructions");
    say("==> instructions");
    let mut counts = BTreeMap::new();
    for name in output(&mut command(&program, &[]))?.lines() {
        let [fewer, more] = CALLS;
        let run = |calls: u64| valgrind.count(&program, &[name, &calls.to_string()]);
        let (shorter, longer) = (run(fewer)?, run(more)?);
        let once = |of: fn(&Counted) -> u64| of(&longer).saturating_sub(of(&shorter)).div_ceil(more - fewer);
        let instructions = once(|counted| counted.instructions);
        ensure!(instructions > 0, "{name}: callgrind counted nothing");
        counts.insert(name.to_owned(), instructions);
        counts.insert(format!("{name}, calls of libc"), once(|counted| counted.calls));
    }
    let rustc = output(&mut command("rustc", &["--version", "--verbose"]))?;
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("unknown").to_owned();
    let rustc = rustc.lines().next().unwrap_or_default().to_owned();
    Ok(Counts { rustc, target: host, valgrind: valgrind.version.clone(), counts })
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{} ended with {}",
        command.get_program().to_string_lossy(),
        output.status
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
