//! Reading the vectors: every file of the index, whose count and hash are verified.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::adapt;
use crate::case::Case;

#[derive(Deserialize)]
struct Index {
    suites: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    suite: String,
    file: String,
    count: usize,
    sha256: String,
}

#[derive(Deserialize)]
struct File {
    cases: Vec<Value>,
}

/// Every case of the vectors in `folder`, in the order of the index.
pub(crate) fn load(folder: &Path) -> Result<Vec<Case>> {
    let path = folder.join("index.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let index: Index = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let mut cases = Vec::new();
    for entry in index.suites {
        let file = folder.join(&entry.file);
        cases.extend(suite(&entry, &file).with_context(|| file.display().to_string())?);
    }
    Ok(cases)
}

fn suite(entry: &Entry, path: &Path) -> Result<Vec<Case>> {
    let bytes = std::fs::read(path)?;
    let sha256 = hex::encode(Sha256::digest(&bytes));
    ensure!(sha256 == entry.sha256, "its SHA-256 is {sha256}, the index says {}", entry.sha256);
    let file: File = serde_json::from_slice(&bytes)?;
    let count = file.cases.len();
    ensure!(count == entry.count, "it has {count} cases, the index says {}", entry.count);
    let mut cases = Vec::new();
    for (number, raw) in (1..).zip(file.cases) {
        let name = raw.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        cases.extend(adapt::cases(&entry.suite, raw).with_context(|| format!("case {number}, {name}"))?);
    }
    let mut names = BTreeSet::new();
    for case in &cases {
        ensure!(names.insert(case.name.as_str()), "two cases are called {}", case.name);
    }
    Ok(cases)
}
