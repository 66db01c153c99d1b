//! Results by case in a page of documentation, between two markers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Report, complain};
use crate::case::Profile;
use crate::run::{CaseResult, Miss, Outcome};

impl Report<'_> {
    /// Puts the results into a page.
    pub(crate) fn write_markdown(&self, path: &Path) -> Result<()> {
        let (old, new) = self.page(path)?;
        if old != new {
            std::fs::write(path, new).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Whether a page has these results already.
    pub(crate) fn check_markdown(&self, path: &Path) -> Result<bool> {
        let (old, new) = self.page(path)?;
        if old != new {
            complain(&anyhow::anyhow!(
                "{} does not show these results: run again with --markdown in place of --markdown-check",
                path.display()
            ));
        }
        Ok(old == new)
    }

    /// The page as it is, and with these results.
    fn page(&self, path: &Path) -> Result<(String, String)> {
        let old = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let marker = |what| format!("<!-- {}=={}: {what} -->", self.about.name, self.about.version);
        let (begin, end) = (marker("begin"), marker("end"));
        let split = old.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
        let (head, tail) = split.with_context(|| format!("{} has no {begin} and {end}", path.display()))?;
        let new = format!("{head}{begin}\n{}{end}{tail}", self.to_markdown());
        Ok((old, new))
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ =
            self.totals(&mut out).and_then(|()| self.failures(&mut out)).and_then(|()| self.passes(&mut out));
        out
    }

    fn totals(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "| suite | cases | pass | fail | fail in strict only | not supported |")?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|")?;
        let mut total = [0; 5];
        for (suite, results) in self.suites() {
            let mut row = [0; 5];
            for case in by_case(results) {
                row[0] += 1;
                row[standing(case) as usize] += 1;
            }
            writeln!(out, "| {suite} | {} |", row.map(|n| n.to_string()).join(" | "))?;
            total.iter_mut().zip(row).for_each(|(total, n)| *total += n);
        }
        writeln!(out, "| total | {} |", total.map(|n| n.to_string()).join(" | "))
    }

    /// Failing cases by reason, each with what is expected and what was got.
    fn failures(&self, out: &mut String) -> std::fmt::Result {
        let mut by_reason: BTreeMap<&str, Vec<&[CaseResult<'_>]>> = BTreeMap::new();
        for case in by_case(&self.results) {
            if let Some((_, reason)) = case.iter().find_map(miss) {
                by_reason.entry(reason).or_default().push(case);
            }
        }
        for (reason, cases) in by_reason {
            writeln!(out, "\n<details><summary>{} ({})</summary>\n", capitalized(reason), cases.len())?;
            writeln!(
                out,
                "| case | rule | profile | expected | {} {} |",
                self.about.name, self.about.version
            )?;
            writeln!(out, "|---|---|---|---|---|")?;
            for case in cases {
                rows(out, case)?;
            }
            writeln!(out, "\n</details>")?;
        }
        Ok(())
    }

    fn passes(&self, out: &mut String) -> std::fmt::Result {
        let list = |out: &mut String, title: &str, wanted: Standing| -> std::fmt::Result {
            writeln!(out, "\n<details><summary>{title}</summary>\n")?;
            for (suite, results) in self.suites() {
                let of_suite = by_case(results).filter(|case| standing(case) == wanted);
                let names: Vec<String> =
                    of_suite.filter_map(|case| Some(format!("`{}`", case.first()?.case.name))).collect();
                if !names.is_empty() {
                    writeln!(out, "- {suite}: {}", names.join(", "))?;
                }
            }
            writeln!(out, "\n</details>")
        };
        list(out, "Cases that pass", Standing::Passes)?;
        list(out, "Cases that are not supported", Standing::Unsupported)
    }
}

/// Results of one case under the profiles, which follow one another.
fn by_case<'r, 'c>(results: &'r [CaseResult<'c>]) -> impl Iterator<Item = &'r [CaseResult<'c>]> {
    results.chunk_by(|a, b| a.case.suite == b.case.suite && a.case.name == b.case.name)
}

/// Where a case stands, as the column of the totals.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    Passes = 1,
    Fails = 2,
    FailsInStrict = 3,
    Unsupported = 4,
}

fn standing(case: &[CaseResult<'_>]) -> Standing {
    let mut failed = case.iter().filter(|result| miss(result).is_some());
    if failed.clone().next().is_none() {
        let skipped = |result: &CaseResult<'_>| {
            matches!(result.outcome, Outcome::Skipped { .. } | Outcome::SkippedUnexpectedly { .. })
        };
        return if case.iter().any(skipped) { Standing::Unsupported } else { Standing::Passes };
    }
    if failed.all(|result| result.profile == Some(Profile::Strict)) && case.len() > 1 {
        Standing::FailsInStrict
    } else {
        Standing::Fails
    }
}

fn miss<'r>(result: &'r CaseResult<'_>) -> Option<(&'r Miss, &'r str)> {
    match &result.outcome {
        Outcome::Failed(miss) => Some((miss, "not listed")),
        Outcome::FailedAsKnown { miss, reason } => Some((miss, reason)),
        _ => None,
    }
}

/// A row for each answer of a case, with the profiles that share it.
fn rows(out: &mut String, case: &[CaseResult<'_>]) -> std::fmt::Result {
    let mut answers: Vec<(&Miss, Vec<&str>)> = Vec::new();
    for (result, (miss, _)) in case.iter().filter_map(|result| Some((result, miss(result)?))) {
        let profile = result.profile.map_or("", Profile::as_str);
        match answers.iter_mut().find(|(known, _)| known.expected == miss.expected && known.got == miss.got) {
            Some((_, profiles)) => profiles.push(profile),
            None => answers.push((miss, vec![profile])),
        }
    }
    for (miss, profiles) in answers {
        let Some(CaseResult { case, .. }) = case.first() else { continue };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            case.path(),
            case.section,
            profiles.join(", "),
            cell(&miss.expected),
            cell(&miss.got)
        )?;
    }
    Ok(())
}

fn cell(text: &str) -> String {
    let short = crate::compare::shortened(text, 90);
    short.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace('`', "'")
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
