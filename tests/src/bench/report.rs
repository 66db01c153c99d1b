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
    pub(crate) ratio: f64,
    /// What the ratio says: so many times `as fast`, or `as long`, as the other side.
    pub(crate) meaning: &'static str,
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
        self.beside = Some(Beside {
            what: what.to_owned(),
            value: self.in_unit(seconds, other),
            ratio: median_ratio(other, seconds),
            meaning: "as fast",
        });
        self
    }

    /// Cost beside another's: the ratio says how many times as long this takes, round by round.
    pub(crate) fn cost_beside(mut self, what: &str, seconds: &[f64], other: &[f64]) -> Self {
        self.beside = Some(Beside {
            what: what.to_owned(),
            value: self.in_unit(seconds, other),
            ratio: median_ratio(seconds, other),
            meaning: "as long",
        });
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
            "GB/s" | "tokens/s" => self.value * median(seconds) / median(other),
            _ => self.value * median(other) / median(seconds),
        }
    }
}

impl Beside {
    /// `1.13 x as long`.
    pub(crate) fn times(&self) -> String {
        format!("{} x {}", number(self.ratio), self.meaning)
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
            Some(b) => (format!("{} {} ({})", number(b.value), figure.unit, b.what), b.times()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_say_how_many_times_as_fast_or_as_long() {
        let (ours, other) = ([0.5, 1.0, 2.0], [1.0, 2.0, 4.0]);
        let speed = Figure::rate("copy", 1_000_000_000, &ours).speed_beside("other", &ours, &other);
        let beside = speed.beside.as_ref().unwrap();
        assert_eq!((speed.value, beside.value, beside.ratio), (1.0, 0.5, 2.0));
        let cost = Figure::milliseconds("step", &ours).cost_beside("other", &ours, &other);
        let beside = cost.beside.as_ref().unwrap();
        assert_eq!((cost.value, beside.value, beside.ratio), (1000.0, 2000.0, 0.5));
    }

    #[test]
    fn a_target_is_met_or_missed_and_absent_without_the_other_side() {
        let met = |bound| {
            let figure = Figure::milliseconds("step", &[0.002]).cost_beside("other", &[0.002], &[0.001]);
            figure.target(bound).target.map(|target| target.met)
        };
        assert_eq!(met(Bound::RatioAtLeast(2.0)), Some(true));
        assert_eq!(met(Bound::RatioAtMost(1.9)), Some(false));
        assert_eq!(met(Bound::ValueAtMost(2.1)), Some(true));
        assert!(Figure::milliseconds("step", &[0.002]).target(Bound::RatioAtLeast(1.0)).target.is_none());
    }
}
