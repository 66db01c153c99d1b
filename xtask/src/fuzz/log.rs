//! What libFuzzer says at the end.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// How a finding without an input starts: the target did not run, or was killed.
const FAILED: &str = "failed";

/// What came of one target.
#[derive(Clone)]
pub(super) struct Outcome {
    pub(super) target: String,
    executions: u64,
    per_second: u64,
    /// Edges of the control flow that were reached.
    edges: u64,
    /// Edges told apart by how often they were taken.
    features: u64,
    /// Inputs, and their bytes as libFuzzer prints them.
    corpus: String,
    new_inputs: u64,
    peak_mb: u64,
    pub(super) finding: Option<String>,
}

impl Outcome {
    /// Reads the log of a run.
    pub(super) fn read(target: &str, sound: bool, log: &Path) -> Result<Self> {
        let bytes = fs::read(log).with_context(|| log.display().to_string())?;
        let text = String::from_utf8_lossy(&bytes);
        let statistic = |name: &str| {
            let line = text.lines().rev().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
            line.and_then(|rest| rest.trim_start_matches(':').trim().parse().ok()).unwrap_or(0)
        };
        // "#65536	pulse  cov: 355 ft: 1023 corp: 89/1234b lim: 4096 exec/s: 32768 rss: 512Mb"
        let status = text.lines().rev().find(|line| line.starts_with('#') && line.contains(" cov: "));
        let words: Vec<&str> = status.unwrap_or_default().split_whitespace().collect();
        let after = |name: &str| words.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]);
        let number = |name| after(name).and_then(|word| word.parse().ok()).unwrap_or(0);
        let outcome = Self {
            target: target.to_owned(),
            executions: statistic("number_of_executed_units"),
            per_second: statistic("average_exec_per_sec"),
            edges: number("cov:"),
            features: number("ft:"),
            corpus: after("corp:").unwrap_or("-").to_owned(),
            new_inputs: statistic("new_units_added"),
            peak_mb: statistic("peak_rss_mb"),
            finding: finding(&text).or_else(|| (!sound).then(|| format!("{FAILED}, see {}", log.display()))),
        };
        ensure!(!sound || outcome.executions > 0, "{target} ran nothing: see {}", log.display());
        Ok(outcome)
    }

    /// How to see the finding again.
    pub(super) fn replay(&self) -> String {
        let Self { target, finding, .. } = self;
        let input = finding.as_deref().unwrap_or_default();
        if input.starts_with(FAILED) {
            return format!("{target}: {input}");
        }
        format!(
            "{target}: {input}\n    again:   RUSTC_BOOTSTRAP=1 cargo fuzz run {target} {input}\n    shorter: \
             RUSTC_BOOTSTRAP=1 cargo fuzz tmin {target} {input}"
        )
    }
}

/// The input that broke a promise.
fn finding(text: &str) -> Option<String> {
    let line = text.lines().rev().find(|line| line.contains("Test unit written to "))?;
    line.split("Test unit written to ").nth(1).map(|path| path.trim().to_owned())
}

/// One line a target.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<22}{:>13}{:>9}{:>8}{:>10}{:>16}{:>7}{:>9}  {}",
        "target", "executions", "exec/s", "edges", "features", "corpus", "new", "peak MB", "findings"
    );
    for outcome in outcomes {
        let Outcome { target, executions, per_second, edges, features, corpus, new_inputs, peak_mb, finding } =
            outcome;
        let found = if finding.is_some() { "1" } else { "none" };
        text += &format!(
            "\n{target:<22}{executions:>13}{per_second:>9}{edges:>8}{features:>10}{corpus:>16}{new_inputs:>7}\
             {peak_mb:>9}  {found}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
INFO: Seed: 1
#2	INITED cov: 4 ft: 4 corp: 1/1b exec/s: 0 rss: 30Mb
#65536	pulse  cov: 355 ft: 1023 corp: 89/1234b lim: 4096 exec/s: 32768 rss: 512Mb
Done 70000 runs in 3 second(s)
stat::number_of_executed_units: 70000
stat::average_exec_per_sec:     23333
stat::new_units_added:          88
stat::slowest_unit_time_sec:    0
stat::peak_rss_mb:              512
";

    fn read(sound: bool, text: &str) -> Result<Outcome> {
        let file =
            std::env::temp_dir().join(format!("avp-fuzz-log-{}-{sound}-{}", std::process::id(), text.len()));
        fs::write(&file, text).unwrap();
        let outcome = Outcome::read("t", sound, &file);
        fs::remove_file(&file).unwrap();
        outcome
    }

    #[test]
    fn the_last_figures_of_a_log_are_read() {
        let outcome = read(true, LOG).unwrap();
        assert_eq!((outcome.executions, outcome.per_second, outcome.edges), (70_000, 23_333, 355));
        assert_eq!((outcome.features, outcome.corpus.as_str(), outcome.new_inputs), (1023, "89/1234b", 88));
        assert!(outcome.finding.is_none() && table(&[outcome]).contains("none"));
    }

    #[test]
    fn a_finding_is_named_and_a_run_of_nothing_is_none() {
        let crash = format!("{LOG}artifact_prefix='x/'; Test unit written to x/crash-00ff\n");
        let outcome = read(false, &crash).unwrap();
        assert!(outcome.replay().contains("cargo fuzz run t x/crash-00ff"));
        let failed = read(false, LOG).unwrap().replay();
        assert!(failed.contains("failed, see") && !failed.contains("cargo fuzz"));
        assert!(read(true, "nothing").is_err());
    }
}
