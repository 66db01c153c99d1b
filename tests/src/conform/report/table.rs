//! The table for people: a line per suite, and one per result that did not come as expected.

use std::io::{self, Write};

use anyhow::Result;

use super::{Counts, Report, complaint, counts};

impl Report<'_> {
    pub(crate) fn print(&self) -> Result<()> {
        self.write_table(&mut io::stdout().lock())
    }

    pub(crate) fn write_table(&self, out: &mut dyn Write) -> Result<()> {
        let profiles: Vec<_> = self.profiles.iter().map(|profile| profile.as_str()).collect();
        writeln!(out, "{} {}, profiles {}", self.about.name, self.about.version, profiles.join(" and "))?;
        if !self.about.codes {
            writeln!(out, "it has no error codes: errors are compared as refusals only")?;
        }
        writeln!(out)?;
        let suites = self.suites();
        let width = suites.iter().map(|(suite, _)| suite.len()).max().unwrap_or(0).max("total".len());
        writeln!(out, "{:width$}  {:>5}  {:>5}  {:>5}  {:>7}", "suite", "pass", "fail", "known", "skipped")?;
        for (suite, results) in suites {
            row(out, width, suite, counts(results))?;
        }
        row(out, width, "total", counts(&self.results))?;
        let mut complaints =
            self.results.iter().filter_map(|result| Some((result, complaint(&result.outcome)?)));
        if let Some(first) = complaints.next() {
            writeln!(out)?;
            for (result, complaint) in std::iter::once(first).chain(complaints) {
                writeln!(out, "{} ({}): {complaint}", result.path(), result.case.section)?;
            }
        }
        Ok(())
    }
}

fn row(out: &mut dyn Write, width: usize, suite: &str, counts: Counts) -> Result<()> {
    let Counts { pass, fail, known, skipped } = counts;
    Ok(writeln!(out, "{suite:width$}  {pass:>5}  {fail:>5}  {known:>5}  {skipped:>7}")?)
}
