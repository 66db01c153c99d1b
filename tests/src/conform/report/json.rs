//! Results for programs.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::{Report, counts};
use crate::run::{CaseResult, Outcome};

impl Report<'_> {
    pub(crate) fn write_json(&self, path: &Path) -> Result<()> {
        let text = format!("{:#}\n", self.to_json());
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    pub(crate) fn to_json(&self) -> Value {
        let suites = self.suites();
        json!({
            "testee": { "name": self.about.name, "version": self.about.version, "codes": self.about.codes },
            "profiles": self.profiles.iter().map(|profile| profile.as_str()).collect::<Vec<_>>(),
            "as_expected": self.is_as_expected(),
            "total": counts(&self.results),
            "suites": suites.iter().map(|(suite, results)| ((*suite).to_owned(), json!(counts(results)))).collect::<Map<_, _>>(),
            "cases": self.results.iter().map(case).collect::<Vec<_>>(),
        })
    }
}

fn case(result: &CaseResult<'_>) -> Value {
    let case = result.case;
    let mut shown = json!({
        "suite": case.suite, "case": case.name, "profile": result.profile.map(|profile| profile.as_str()),
        "section": case.section, "also": case.also, "op": case.op,
    });
    let (outcome, miss, reason) = match &result.outcome {
        Outcome::Passed => ("pass", None, None),
        Outcome::PassedUnexpectedly { reason } => ("unexpected_pass", None, Some(reason)),
        Outcome::Failed(miss) => ("fail", Some(miss), None),
        Outcome::FailedAsKnown { miss, reason } => ("known", Some(miss), Some(reason)),
        Outcome::Skipped { why } => ("skipped", None, Some(why)),
        Outcome::SkippedUnexpectedly { why } => ("unexpected_skip", None, Some(why)),
    };
    shown["outcome"] = outcome.into();
    if let Some(miss) = miss {
        shown["expected"] = miss.expected.as_str().into();
        shown["got"] = miss.got.as_str().into();
        shown["detail"] = miss.detail.as_str().into();
    }
    if let Some(reason) = reason {
        shown["reason"] = reason.as_str().into();
    }
    shown
}
