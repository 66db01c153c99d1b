//! `cargo xtask fuzz`: every target of `fuzz/` for some time, and what came of it.

mod log;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;

use crate::interop;
use crate::sh::{self, cargo, command, root, say, target};
use log::Outcome;

/// Inputs are no longer than this; one allocation is no larger than `malloc_limit_mb`, which is far above the memory
/// budget of the bodies and far below what a header can claim.
const FLAGS: [&str; 5] =
    ["-max_len=4096", "-timeout=20", "-rss_limit_mb=2048", "-malloc_limit_mb=64", "-print_final_stats=1"];

/// Fuzz targets with libFuzzer and AddressSanitizer, by cargo-fuzz.
#[derive(Parser)]
#[command(bin_name = "cargo xtask fuzz")]
struct Args {
    /// Seconds for each target, or for the differential run.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs this target only; can be given several times.
    #[arg(long = "target")]
    targets: Vec<String>,
    /// Targets that run at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Instead of fuzzing, writes the committed corpus anew: the fewest inputs that reach all code that the vectors,
    /// the committed corpus and earlier runs reach.
    #[arg(long)]
    minimize: bool,
    /// Instead of fuzzing, compares what the Python SDK and the lenient profile read of mutated frames.
    #[arg(long)]
    differential: bool,
    /// Seed of the differential run; another one each time by default.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(args: &[&str]) -> Result<()> {
    let args = Args::parse_from([&["fuzz"], args].concat());
    if args.differential {
        return interop::differential(args.seconds, args.seed);
    }
    install()?;
    let targets = choose(&args.targets)?;
    sh::run("build the fuzz targets", &mut cargo_fuzz(&["build"]))?;
    if args.minimize {
        return minimize(&targets);
    }
    report(fuzz(&targets, args.seconds, args.jobs)?)
}

/// `cargo fuzz`, which asks for nightly features that a stable toolchain grants to who insists.
fn cargo_fuzz(args: &[&str]) -> Command {
    let mut command = cargo(&[&["fuzz"], args].concat());
    command.env("RUSTC_BOOTSTRAP", "1");
    command
}

fn install() -> Result<()> {
    if cargo_fuzz(&["--version"]).output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    sh::run("install cargo-fuzz", &mut cargo(&["install", "--locked", "cargo-fuzz"]))
}

/// The targets of the manifest, or those of them that were asked for.
fn choose(wanted: &[String]) -> Result<Vec<String>> {
    let output = cargo_fuzz(&["list"]).output().context("cannot start cargo fuzz list")?;
    ensure!(output.status.success(), "cargo fuzz list: {}", String::from_utf8_lossy(&output.stderr));
    let all: Vec<String> = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("there is no target {unknown}; there are {}", all.join(", "));
    }
    Ok(all.into_iter().filter(|name| wanted.is_empty() || wanted.contains(name)).collect())
}

/// Runs the targets, `jobs` at once.
fn fuzz(targets: &[String], seconds: u64, jobs: usize) -> Result<Vec<Outcome>> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut outcomes = Vec::new();
        while let Some(name) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            outcomes.push(fuzz_one(name, seconds)?);
        }
        Ok(outcomes)
    };
    let results: Vec<Result<Vec<Outcome>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
            .collect()
    });
    let outcomes: Result<Vec<Vec<Outcome>>> = results.into_iter().collect();
    let mut outcomes = outcomes?.concat();
    outcomes.sort_by_key(|outcome| targets.iter().position(|name| *name == outcome.target));
    Ok(outcomes)
}

fn fuzz_one(name: &str, seconds: u64) -> Result<Outcome> {
    let (found, log) = (work("corpus", name)?, work("logs", "")?.join(format!("{name}.log")));
    say(&format!("==> {name}: {seconds} s, log in {}", log.display()));
    let time = format!("-max_total_time={seconds}");
    let committed = committed(name);
    // A new target has no corpus yet, and libFuzzer does not run without the folder.
    fs::create_dir_all(&committed)?;
    let mut command = cargo_fuzz(&["run", name]);
    command.args([&found, &committed]).arg("--").args(FLAGS).arg(time).arg(dictionary(name));
    let file = fs::File::create(&log).with_context(|| log.display().to_string())?;
    let status =
        command.stdout(file.try_clone()?).stderr(file).status().context("cannot start cargo fuzz")?;
    Outcome::read(name, status.success(), &log)
}

/// The table, and an error if anything was found.
fn report(outcomes: Vec<Outcome>) -> Result<()> {
    say(&log::table(&outcomes));
    let findings: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.finding.is_some()).collect();
    for outcome in &findings {
        say(&outcome.replay());
    }
    ensure!(findings.is_empty(), "{} of {} targets found something", findings.len(), outcomes.len());
    Ok(())
}

/// Writes the committed corpus anew.
fn minimize(targets: &[String]) -> Result<()> {
    let seeds = target().join("fuzz").join("seeds");
    let seeds_arg = seeds.display().to_string();
    sh::run("seeds", &mut command("python3", &["fuzz/seeds.py", &seeds_arg]))?;
    for name in targets {
        let (least, kept) = (target().join("fuzz").join("least").join(name), committed(name));
        if least.exists() {
            fs::remove_dir_all(&least)?;
        }
        fs::create_dir_all(&least)?;
        fs::create_dir_all(&kept)?;
        let mut command = cargo_fuzz(&["run", name]);
        command.args([&least, &kept, &work("corpus", name)?, &work("seeds", name)?]);
        // Edges alone: how often each is taken would keep ten times the inputs.
        command.args(["--", "-set_cover_merge=1", "-use_counters=0"]).args(FLAGS);
        sh::run(name, command.stdout(std::process::Stdio::null()))?;
        fs::remove_dir_all(&kept)?;
        fs::create_dir_all(&kept)?;
        for input in fs::read_dir(&least)? {
            let input = input?;
            fs::copy(input.path(), kept.join(input.file_name()))?;
        }
    }
    Ok(())
}

fn committed(name: &str) -> PathBuf {
    root().join("fuzz").join("corpus").join(name)
}

/// The dictionary of a target's crate, which its name starts with.
fn dictionary(name: &str) -> String {
    let of = name.split('_').next().unwrap_or(name);
    format!("-dict={}", root().join("fuzz").join("dictionaries").join(of).with_extension("dict").display())
}

/// A folder for what a run finds, kept from run to run.
fn work(what: &str, name: &str) -> Result<PathBuf> {
    let folder: PathBuf = [&target(), Path::new("fuzz"), Path::new(what), Path::new(name)].iter().collect();
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}
