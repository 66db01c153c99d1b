//! Who cites which rule: vectors, tests and the list of exceptions.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::workspace;

/// What a test's comment starts with.
const MARK: &str = "// spec: ";

/// A rule that is cited, and where.
#[derive(Clone, Debug)]
pub(crate) struct Citation {
    pub(crate) rule: String,
    /// The file and what in it; of an exception its reason.
    pub(crate) at: String,
    /// Of a comment: whether a test follows.
    pub(crate) above_test: bool,
}

impl fmt::Display for Citation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.rule, self.at)
    }
}

/// Citations of the vectors' `section` and `also`.
pub(crate) fn of_vectors() -> Vec<Citation> {
    let mut found = Vec::new();
    for path in files(&workspace("spec-vectors"), "json") {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let suite: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for case in suite["cases"].as_array().into_iter().flatten() {
            let at = format!("{file}, {}", case["name"].as_str().unwrap_or_default());
            let also = case["also"].as_array().into_iter().flatten();
            for rule in [&case["section"]].into_iter().chain(also).filter_map(Value::as_str) {
                found.push(Citation { rule: rule.to_owned(), at: at.clone(), above_test: true });
            }
        }
    }
    assert!(!found.is_empty(), "no vector cites a rule");
    found
}

/// Citations of comments in Rust sources.
pub(crate) fn of_tests() -> Vec<Citation> {
    let root = workspace("");
    let mut found = Vec::new();
    for path in files(&root, "rs") {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            let Some(rules) = line.strip_prefix(MARK) else { continue };
            let at = format!("{}:{}", path.strip_prefix(&root).unwrap().display(), number + 1);
            let above_test = is_test(&lines[number + 1..]);
            let rules = rules.split(',').map(|rule| rule.trim().to_owned());
            found.extend(rules.map(|rule| Citation { rule, at: at.clone(), above_test }));
        }
    }
    found
}

/// Whether the next function is a test, with nothing but comments and attributes before it. Suites that are run over
/// several implementations take a harness.
fn is_test(lines: &[&str]) -> bool {
    let is_head = |line: &str| line.starts_with("//") || line.starts_with("#[");
    let head = lines.iter().take_while(|line| is_head(line)).count();
    let signature = lines.get(head).copied().unwrap_or_default();
    let marked =
        lines[..head].iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    signature.contains("fn ") && (marked || signature.contains("Harness"))
}

/// The rows of `docs/spec/untested.md`: rule and reason.
pub(crate) fn untested() -> Vec<Citation> {
    let page = fs::read_to_string(workspace("docs/spec/untested.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | "));
    rows.filter(|(rule, _)| *rule != "rule")
        .map(|(rule, reason)| Citation { rule: rule.into(), at: reason.into(), above_test: true })
        .collect()
}

/// Files of `extension` under `folder`, without hidden and built ones, and without those of linked folders.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (kind, path) = (entry.file_type().unwrap(), entry.path());
        let name = entry.file_name();
        if kind.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            found.extend(files(&path, extension));
        } else if kind.is_file() && path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn only_tests_count_as_tests() {
    assert!(is_test(&["#[test]", "fn a() {"]));
    assert!(is_test(&["/// Doc.", "#[tokio::test(start_paused = true)]", "async fn a() {"]));
    assert!(is_test(&["pub async fn promise(harness: &dyn Harness) {"]));
    assert!(!is_test(&["fn helper() {"]));
    assert!(!is_test(&["", "#[test]", "fn a() {"]));
    assert!(!is_test(&["#[test]"]));
}
