//! `cargo xtask bench --check` and `--baseline`: instructions of the codec's small calls, counted by callgrind.
//!
//! Counts do not depend on load, unlike times; they do depend on the compiler, the C library and the architecture, which
//! the baseline names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::sh::{self, cargo, command, root, say, target};

/// How far a count may be from its baseline, in percent.
const TOLERANCE: u64 = 5;
/// Calls of the shorter and of the longer run.
const CALLS: [u64; 2] = [1_000, 3_000];
/// The C library's oldest copy routines, which every CPU of the architecture has.
const SAME_ROUTINES: &str = "glibc.cpu.hwcaps=-AVX2,-AVX2_Usable,-AVX512F,-AVX512VL,-AVX512F_Usable,-AVX512VL_Usable,-ERMS,-FSRM,-Fast_Unaligned_Copy,-AVX_Fast_Unaligned_Load";

/// Counts, and what they were counted with.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Counts {
    rustc: String,
    valgrind: String,
    libc: String,
    /// Instructions of one call, by name.
    instructions: BTreeMap<String, u64>,
}

/// Fails if anything takes over 5 % more instructions than its baseline.
pub(crate) fn check() -> Result<()> {
    let text =
        fs::read_to_string(baseline()).context("no baseline: `cargo xtask bench --baseline` writes one")?;
    let before: Counts = serde_json::from_str(&text).context("reading the baseline")?;
    let now = count()?;
    for (what, before, now) in [
        ("rustc", &before.rustc, &now.rustc),
        ("valgrind", &before.valgrind, &now.valgrind),
        ("libc", &before.libc, &now.libc),
    ] {
        if before != now {
            say(&format!("    note: the baseline was counted with {what} {before}, this is {now}"));
        }
    }
    let verdicts = compare(&before.instructions, &now.instructions);
    for (name, verdict) in &verdicts {
        say(&format!("    {name}: {}", verdict.text()));
    }
    let renew = verdicts.values().any(Verdict::outdates);
    if renew {
        say("    the baseline is outdated: `cargo xtask bench --baseline` writes it anew");
    }
    let slower: Vec<&str> =
        verdicts.iter().filter(|(_, verdict)| verdict.fails()).map(|(name, _)| name.as_str()).collect();
    ensure!(
        slower.is_empty(),
        "more instructions than the baseline allows, or none counted: {}",
        slower.join(", ")
    );
    Ok(())
}

/// Writes the counts of this tree as the baseline.
pub(crate) fn write() -> Result<()> {
    let counts = count()?;
    for (name, count) in &counts.instructions {
        say(&format!("    {name}: {count}"));
    }
    fs::write(baseline(), serde_json::to_string_pretty(&counts)? + "\n").context("writing the baseline")
}

fn baseline() -> PathBuf {
    root().join("xtask").join("instructions.json")
}

fn count() -> Result<Counts> {
    let valgrind = valgrind()?;
    sh::run("build", &mut cargo(&["build", "--release", "-p", "avp-wire", "--example", "instructions"]))?;
    let program = target().join("release").join("examples").join("instructions");
    say("==> instructions");
    let mut instructions = BTreeMap::new();
    for name in output(&mut command(&program, &[]))?.lines() {
        let [fewer, more] = CALLS;
        let beyond = collected(&program, name, more)?.saturating_sub(collected(&program, name, fewer)?);
        instructions.insert(name.to_owned(), beyond.div_ceil(more - fewer));
    }
    Ok(Counts {
        rustc: output(&mut command("rustc", &["--version"]))?,
        valgrind,
        libc: format!(
            "{}, {}",
            output(&mut command("getconf", &["GNU_LIBC_VERSION"])).unwrap_or_else(|_| "unknown".into()),
            std::env::consts::ARCH
        ),
        instructions,
    })
}

/// Instructions of a whole run.
fn collected(program: &Path, name: &str, calls: u64) -> Result<u64> {
    let program = program.to_str().context("the target folder's name is not UTF-8")?;
    let calls = calls.to_string();
    let args = ["--tool=callgrind", "--callgrind-out-file=/dev/null", program, name, &calls];
    let output = command("valgrind", &args).env("GLIBC_TUNABLES", SAME_ROUTINES).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "callgrind ended with {}:\n{text}", output.status);
    let line = text.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    line.and_then(|count| count.parse().ok()).with_context(|| format!("callgrind gave no count:\n{text}"))
}

/// Valgrind's version; installs it where that is possible.
fn valgrind() -> Result<String> {
    let version = || output(&mut command("valgrind", &["--version"]));
    if let Ok(version) = version() {
        return Ok(version);
    }
    if !sh::is_root() {
        bail!(
            "instructions are counted by valgrind: install it (apt-get install valgrind libc6-dbg), then run this again"
        );
    }
    say("    valgrind is not there; installing the Debian package valgrind");
    sh::install(&["valgrind", "libc6-dbg"])?;
    version()
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

/// What became of a count.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// Within the tolerance.
    Kept { before: u64, now: u64 },
    /// More than the tolerance beyond the baseline.
    Slower { before: u64, now: u64 },
    /// More than the tolerance below it.
    Faster { before: u64, now: u64 },
    /// Not in the baseline.
    New { now: u64 },
    /// In the baseline alone.
    Gone,
}

impl Verdict {
    fn fails(&self) -> bool {
        matches!(self, Self::Slower { .. } | Self::Gone)
    }

    fn outdates(&self) -> bool {
        matches!(self, Self::Faster { .. } | Self::New { .. } | Self::Gone)
    }

    fn text(&self) -> String {
        let change =
            |before: u64, now: u64| format!("{now}, baseline {before} ({:+.1} %)", percent(before, now));
        match *self {
            Self::Kept { before, now } => change(before, now),
            Self::Slower { before, now } => change(before, now) + ", too many",
            Self::Faster { before, now } => change(before, now) + ", faster",
            Self::New { now } => format!("{now}, not in the baseline"),
            Self::Gone => "in the baseline, but not counted".into(),
        }
    }
}

fn compare(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, Verdict> {
    let names = before.keys().chain(now.keys());
    let verdict = |name: &String| match (before.get(name).copied(), now.get(name).copied()) {
        (Some(before), Some(now)) if now * 100 > before * (100 + TOLERANCE) => {
            Verdict::Slower { before, now }
        }
        (Some(before), Some(now)) if now * 100 < before * (100 - TOLERANCE) => {
            Verdict::Faster { before, now }
        }
        (Some(before), Some(now)) => Verdict::Kept { before, now },
        (None, Some(now)) => Verdict::New { now },
        (_, None) => Verdict::Gone,
    };
    names.map(|name| (name.clone(), verdict(name))).collect()
}

fn percent(before: u64, now: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(before: Option<u64>, now: Option<u64>) -> Verdict {
        let counts = |count: Option<u64>| count.map(|count| ("work".to_owned(), count)).into_iter().collect();
        compare(&counts(before), &counts(now))["work"]
    }

    #[test]
    fn more_than_5_percent_more_fails_and_more_than_5_percent_less_asks_for_a_new_baseline() {
        for (now, fails, outdates) in [
            (106, true, false),
            (105, false, false),
            (100, false, false),
            (95, false, false),
            (94, false, true),
        ] {
            let verdict = verdict(Some(100), Some(now));
            assert_eq!((verdict.fails(), verdict.outdates()), (fails, outdates), "{now}");
        }
    }

    #[test]
    fn a_count_that_is_gone_fails_and_a_new_one_asks_for_a_new_baseline() {
        assert!(verdict(Some(100), None).fails());
        let new = verdict(None, Some(100));
        assert!(new.outdates() && !new.fails());
    }
}
