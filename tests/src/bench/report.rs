//! What was measured: groups of figures, the machine, and the table of them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

use serde::Serialize;

use crate::measure::{median, median_ratio};

/// A whole run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) command: String,
    pub(crate) commit: String,
    pub(crate) machine: String,
    pub(crate) python: bool,
    /// Load averages of the last minute, before and after.
    pub(crate) load: Vec<String>,
    pub(crate) groups: Vec<Group>,
}

/// Figures that belong together.
#[derive(Serialize)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) figures: Vec<Figure>,
    /// How it was measured and what else was seen.
    pub(crate) notes: Vec<String>,
}

/// One figure, and what stands beside it.
#[derive(Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) beside: Option<Beside>,
    pub(crate) target: Option<Target>,
}

/// The other side of a comparison.
#[derive(Serialize)]
pub(crate) struct Beside {
    pub(crate) what: String,
    pub(crate) value: f64,
    /// The figure over this, or this over the figure: whichever the group's title line says, as shown.
    pub(crate) ratio: f64,
}

/// What is asked of a figure.
#[derive(Serialize)]
pub(crate) struct Target {
    pub(crate) text: String,
    pub(crate) met: bool,
}

/// A bound on a figure's value or ratio.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    RatioAtLeast(f64),
    RatioAtMost(f64),
    ValueAtMost(f64),
}

impl Group {
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), figures: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl Figure {
    /// A rate in GB/s of moving `bytes` in each of `seconds`.
    pub(crate) fn rate(name: impl Into<String>, bytes: usize, seconds: &[f64]) -> Self {
        Self::of(name, "GB/s", bytes as f64 / 1e9 / median(seconds))
    }

    /// Milliseconds of a call.
    pub(crate) fn milliseconds(name: impl Into<String>, seconds: &[f64]) -> Self {
        Self::of(name, "ms", median(seconds) * 1e3)
    }

    /// Microseconds of a call.
    pub(crate) fn microseconds(name: impl Into<String>, seconds: &[f64]) -> Self {
        Self::of(name, "us", median(seconds) * 1e6)
    }

    pub(crate) fn of(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value, beside: None, target: None }
    }

    /// Speed beside another's: the ratio says how many times as fast this is, round by round.
    pub(crate) fn speed_beside(mut self, what: &str, seconds: &[f64], other: &[f64]) -> Self {
        let ratio = median_ratio(other, seconds);
        self.beside = Some(Beside { what: what.to_owned(), value: self.in_unit(seconds, other), ratio });
        self
    }

    /// Cost beside another's: the ratio says how many times as long this takes, round by round.
    pub(crate) fn cost_beside(mut self, what: &str, seconds: &[f64], other: &[f64]) -> Self {
        let ratio = median_ratio(seconds, other);
        self.beside = Some(Beside { what: what.to_owned(), value: self.in_unit(seconds, other), ratio });
        self
    }

    pub(crate) fn target(mut self, bound: Bound) -> Self {
        let ratio = self.beside.as_ref().map(|b| b.ratio);
        let unit = self.unit;
        let (text, met) = match bound {
            Bound::RatioAtLeast(least) => (format!("at least {least} x"), ratio.map(|r| r >= least)),
            Bound::RatioAtMost(most) => (format!("at most {most} x"), ratio.map(|r| r <= most)),
            Bound::ValueAtMost(most) => (format!("at most {most} {unit}"), Some(self.value <= most)),
        };
        self.target = met.map(|met| Target { text, met });
        self
    }

    /// The other side in this figure's unit.
    fn in_unit(&self, seconds: &[f64], other: &[f64]) -> f64 {
        match self.unit {
            "GB/s" => self.value * median(seconds) / median(other),
            _ => self.value * median(other) / median(seconds),
        }
    }
}

impl Report {
    pub(crate) fn start(python: bool) -> Self {
        Self {
            command: std::iter::once("avp-bench".to_owned()).chain(arguments()).collect::<Vec<_>>().join(" "),
            commit: commit(),
            machine: machine(),
            python,
            load: vec![load()],
            groups: Vec::new(),
        }
    }

    pub(crate) fn finish(&mut self) {
        self.load.push(load());
    }

    /// Machine, commit and command.
    pub(crate) fn about(&self) -> String {
        let load = self.load.join(" before, ");
        let mut text = format!("Machine: {}. Load average of a minute: {load} after.\n", self.machine);
        let _ = writeln!(text, "Commit: {}. Command: `{}`.", self.commit, self.command);
        if !self.python {
            text +=
                "The columns of the Python SDK and of transformers are missing: --python was not given.\n";
        }
        text
    }
}

/// A Markdown table of a group.
pub(crate) fn table(group: &Group) -> String {
    let mut text = format!("### {}\n\n", group.title);
    text += "| figure | here | beside | ratio | target |\n|---|---:|---:|---:|---|\n";
    for figure in &group.figures {
        let (beside, ratio) = match &figure.beside {
            Some(b) => (format!("{} {} ({})", number(b.value), figure.unit, b.what), number(b.ratio)),
            None => Default::default(),
        };
        let target = match &figure.target {
            Some(Target { text, met }) => format!("{text}: {}", if *met { "met" } else { "missed" }),
            None => String::new(),
        };
        let (name, value, unit) = (&figure.name, number(figure.value), figure.unit);
        let _ = writeln!(text, "| {name} | {value} {unit} | {beside} | {ratio} | {target} |");
    }
    text.push('\n');
    for note in &group.notes {
        let _ = writeln!(text, "- {note}");
    }
    text
}

/// Three digits that say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        x if x >= 100.0 => format!("{value:.0}"),
        x if x >= 10.0 => format!("{value:.1}"),
        x if x >= 0.01 || x == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.1e}"),
    }
}

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// The arguments, paths cut to their names: a report is to be shared.
fn arguments() -> impl Iterator<Item = String> {
    std::env::args().skip(1).map(|arg| match Path::new(&arg).file_name() {
        Some(name) if arg.contains('/') => name.to_string_lossy().into_owned(),
        _ => arg,
    })
}

fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root()).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    if changed { commit + " with changes" } else { commit }
}

fn machine() -> String {
    let field = |file: &str, key: &str| {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned())
    };
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = available_parallelism().map_or(1, usize::from);
    let memory =
        field("/proc/meminfo", "MemTotal").and_then(|kib| kib.split(' ').next()?.parse::<u64>().ok());
    let memory = memory.map(|kib| format!(", {} GiB memory", kib >> 20)).unwrap_or_default();
    format!("{cpu}, {cores} cores{memory}, {}", std::env::consts::OS)
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().filter(|l| !l.is_empty()).unwrap_or("unknown").to_owned()
}
