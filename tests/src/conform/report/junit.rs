//! Results as JUnit XML, which CI servers show.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result};
use quick_junit::{NonSuccessKind, Report as JUnit, TestCase, TestCaseStatus, TestSuite};

use super::{Report, complaint};
use crate::run::{CaseResult, Outcome};

impl Report<'_> {
    pub(crate) fn write_junit(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        self.to_junit().serialize(file).with_context(|| path.display().to_string())
    }

    pub(crate) fn to_junit(&self) -> JUnit {
        let mut junit = JUnit::new(format!("avp-conform {} {}", self.about.name, self.about.version));
        for (suite, results) in self.suites() {
            let mut shown = TestSuite::new(suite);
            shown.add_test_cases(results.iter().map(case));
            junit.add_test_suite(shown);
        }
        junit
    }
}

fn case(result: &CaseResult<'_>) -> TestCase {
    let mut status = match &result.outcome {
        Outcome::Passed => TestCaseStatus::success(),
        Outcome::FailedAsKnown { .. } | Outcome::Skipped { .. } => TestCaseStatus::skipped(),
        _ => TestCaseStatus::non_success(NonSuccessKind::Failure),
    };
    match &result.outcome {
        Outcome::FailedAsKnown { reason, .. } => status.set_message(format!("known failure: {reason}")),
        Outcome::Skipped { why } => status.set_message(why.as_str()),
        other => status.set_message(complaint(other).unwrap_or_default()),
    };
    let name = match result.profile {
        Some(profile) => format!("{}@{profile}", result.case.name),
        None => result.case.name.clone(),
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(format!("{} ({})", result.case.suite, result.case.section));
    case
}
