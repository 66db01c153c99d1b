//! What a run found, in the forms in which people and programs read it.

mod json;
mod junit;
mod markdown;
mod table;

use std::io::{self, Write as _};

use anyhow::Error;

use crate::case::Profile;
use crate::run::{CaseResult, Outcome};
use crate::testee::About;

/// The results of a run.
pub(crate) struct Report<'c> {
    pub(crate) about: About,
    pub(crate) profiles: Vec<Profile>,
    pub(crate) results: Vec<CaseResult<'c>>,
}

/// How many results there are of each kind.
#[derive(Clone, Copy, Default, PartialEq, Debug, serde::Serialize)]
struct Counts {
    pass: usize,
    fail: usize,
    known: usize,
    skipped: usize,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.pass += 1,
            Outcome::FailedAsKnown { .. } => self.known += 1,
            Outcome::Skipped { .. } => self.skipped += 1,
            Outcome::Failed(_) | Outcome::PassedUnexpectedly { .. } | Outcome::SkippedUnexpectedly { .. } => {
                self.fail += 1;
            }
        }
    }
}

impl<'c> Report<'c> {
    /// Whether everything passed, is a known failure, or is not supported.
    pub(crate) fn is_as_expected(&self) -> bool {
        self.results.iter().all(|result| result.outcome.is_expected())
    }

    /// The suites in the order of the run, each with its results.
    fn suites(&self) -> Vec<(&str, &[CaseResult<'c>])> {
        let runs = self.results.chunk_by(|a, b| a.case.suite == b.case.suite);
        runs.filter_map(|run| Some((run.first()?.case.suite.as_str(), run))).collect()
    }
}

fn counts(results: &[CaseResult<'_>]) -> Counts {
    let mut counts = Counts::default();
    results.iter().for_each(|result| counts.add(&result.outcome));
    counts
}

/// What has to be said of a result that did not come as expected.
fn complaint(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Failed(miss) => Some(miss.to_string()),
        Outcome::PassedUnexpectedly { reason } => {
            Some(format!("passes, but is listed as a known failure ({reason}): take it off the list"))
        }
        Outcome::SkippedUnexpectedly { why } => {
            Some(format!("is not supported ({why}), but is listed as a known failure: take it off the list"))
        }
        Outcome::Passed | Outcome::FailedAsKnown { .. } | Outcome::Skipped { .. } => None,
    }
}

/// Tells why there was no run.
pub(crate) fn complain(error: &Error) {
    // Nothing is left to tell it to if stderr is closed.
    let _ = writeln!(io::stderr().lock(), "error: {error:#}");
}
