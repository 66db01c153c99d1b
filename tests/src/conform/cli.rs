//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use crate::case::Profile;

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec-vectors");

/// Tests an implementation of the Agent Vector Protocol against the vectors of `spec-vectors/`.
///
/// Exits with 0 if every case passed or is a known failure, with 1 otherwise.
#[derive(Parser)]
#[command(name = "avp-conform", version)]
pub(crate) struct Options {
    /// Command that starts the implementation, split as a shell does; OURS is this workspace's own.
    #[arg(long = "impl", value_name = "CMD", required_unless_present = "testee")]
    implementation: Option<String>,
    /// Profile of the decoder; may be given several times. Default: strict and lenient.
    #[arg(long = "profile", value_name = "PROFILE", value_enum)]
    pub(crate) profiles: Vec<Profile>,
    /// Only this suite; may be given several times.
    #[arg(long = "suite", value_name = "NAME")]
    pub(crate) suites: Vec<String>,
    /// Only cases of this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) case: Option<String>,
    /// List of known failures, a line each: `suite/case@profile  # reason`. One that passes fails the run.
    #[arg(long, value_name = "FILE")]
    pub(crate) known: Option<PathBuf>,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
    /// Put the results, by case, between the markers `<!-- NAME==VERSION: begin -->` and `end` of a Markdown file.
    #[arg(long, value_name = "FILE")]
    pub(crate) markdown: Option<PathBuf>,
    /// Fail unless the Markdown file has these results already.
    #[arg(long, value_name = "FILE", conflicts_with = "markdown")]
    pub(crate) markdown_check: Option<PathBuf>,
    /// Stop at the first result that is not as expected.
    #[arg(long)]
    pub(crate) fail_fast: bool,
    /// Seconds for one answer.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Folder of the vectors.
    #[arg(long, value_name = "DIR", default_value = VECTORS, hide_default_value = true)]
    pub(crate) vectors: PathBuf,
    /// Be the implementation: answer requests on stdin.
    #[arg(long, hide = true)]
    pub(crate) testee: bool,
}

impl Options {
    /// Program and arguments of the implementation.
    pub(crate) fn command(&self) -> Result<Vec<String>> {
        let line = self.implementation.as_deref().unwrap_or_default();
        if line.eq_ignore_ascii_case("ours") {
            let program = std::env::current_exe().context("where this program is")?;
            let program = program.into_os_string().into_string().ok().context("a path in Unicode")?;
            return Ok(vec![program, "--testee".to_owned()]);
        }
        let words = shlex::split(line).with_context(|| format!("--impl {line}: a quote is not closed"))?;
        ensure!(!words.is_empty(), "--impl names no program");
        Ok(words)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
