//! The list of known failures: a text file of lines `suite/case@profile  # reason`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::case::{Case, Profile};

/// Why a case may fail, by case and profile. Without a profile an entry holds for each.
#[derive(Default)]
pub(crate) struct Known {
    entries: BTreeMap<(String, Option<Profile>), String>,
}

impl Known {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut known = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let (entry, reason) = line.split_once('#').unwrap_or((line, ""));
            let (entry, reason) = (entry.trim(), reason.trim());
            if entry.is_empty() {
                continue;
            }
            ensure!(
                !reason.is_empty(),
                "line {number}: {entry} has no reason (`suite/case@profile  # reason`)"
            );
            let (case, profile) = match entry.split_once('@') {
                None => (entry, None),
                Some((case, name)) => {
                    let profile = Profile::from_name(name);
                    (
                        case,
                        Some(profile.with_context(|| format!("line {number}: there is no profile {name}"))?),
                    )
                }
            };
            let twice = known.entries.insert((case.to_owned(), profile), reason.to_owned());
            ensure!(twice.is_none(), "line {number}: {entry} is listed twice");
        }
        Ok(known)
    }

    /// An error unless every entry names a case.
    pub(crate) fn check(&self, cases: &[Case]) -> Result<()> {
        for (path, profile) in self.entries.keys() {
            let Some(case) = cases.iter().find(|case| case.path() == *path) else {
                bail!("the list of known failures names {path}, which is no case");
            };
            if let Some(profile) = profile {
                ensure!(case.has_profiles(), "known failure {path}@{profile}: {} takes no profile", case.op);
                let both = self.entries.contains_key(&(path.clone(), None));
                ensure!(!both, "known failure {path} is listed with a profile and without");
            }
        }
        Ok(())
    }

    /// Why this case may fail, if it may.
    pub(crate) fn reason(&self, case: &Case, profile: Option<Profile>) -> Option<&str> {
        let path = case.path();
        let exact = self.entries.get(&(path.clone(), profile));
        exact.or_else(|| self.entries.get(&(path, None))).map(String::as_str)
    }
}
