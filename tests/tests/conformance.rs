//! `avp-conform`: this workspace passes, and an implementation that does not is told.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Runs avp-conform; gives what it did and its report.
fn conform(arguments: &[&str]) -> (Output, Option<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_avp-conform"));
    command.args(arguments).arg("--json").arg(&report);
    let output = command.output().unwrap();
    let report = std::fs::read(report).ok().map(|text| serde_json::from_slice(&text).unwrap());
    (output, report)
}

fn count(report: &Value, what: &str) -> u64 {
    report["total"][what].as_u64().unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

/// A program that answers every request by `reply`, in which `$id` is the request's.
fn testee(folder: &Path, describe: &str, reply: &str) -> String {
    let script = folder.join("testee.sh");
    let text = format!(
        "while read -r line; do\n  id=${{line#*\\\"id\\\":}}; id=${{id%%,*}}\n  case $line in\n    *describe*) {describe};;\n    *) {reply};;\n  esac\ndone\n"
    );
    std::fs::write(&script, text).unwrap();
    format!("sh {}", script.display())
}

const DESCRIBE: &str =
    r#"echo "{\"id\": $id, \"ok\": {\"name\": \"t\", \"version\": \"1\", \"codes\": true}}""#;
const ACCEPTS: &str = r#"echo "{\"id\": $id, \"ok\": {}}""#;
const UNSUPPORTED: &str = r#"echo "{\"id\": $id, \"unsupported\": \"no\"}""#;

fn run(describe: &str, reply: &str, arguments: &[&str]) -> (Output, Option<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let testee = testee(folder.path(), describe, reply);
    conform(&[&["--impl", &testee], arguments].concat())
}

#[test]
fn this_workspace_passes_every_case_under_every_profile() {
    let profiles = ["--profile", "strict", "--profile", "default", "--profile", "lenient"];
    let (output, report) = conform(&[&["--impl", "OURS"], &profiles[..]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let report = report.unwrap();
    assert_eq!((count(&report, "fail"), count(&report, "known"), count(&report, "skipped")), (0, 0, 0));
    assert!(count(&report, "pass") > 3000, "{}", report["total"]);
}

#[test]
fn a_testee_that_accepts_everything_fails() {
    let (output, report) = run(DESCRIBE, ACCEPTS, &["--suite", "checksums"]);
    assert_eq!(output.status.code(), Some(1));
    let report = report.unwrap();
    assert!(count(&report, "fail") > 10, "{}", report["total"]);
    assert!(said(&output).contains("frame 3.7"), "{}", said(&output));
}

#[test]
fn one_that_dies_is_silent_or_answers_garbage_fails_case_by_case() {
    for reply in ["exit 3", "sleep 60", "echo garbage", r#"echo '{"id": 999999, "ok": {}}'"#, "echo"] {
        let case = ["--suite", "checksums", "--case", "absent", "--timeout", "1"];
        let (output, report) = run(DESCRIBE, reply, &case);
        assert_eq!(output.status.code(), Some(1), "{reply}: {}", said(&output));
        let report = report.unwrap_or_else(|| panic!("{reply}: {}", said(&output)));
        assert_eq!((count(&report, "pass"), count(&report, "fail")), (0, 2), "{reply}");
    }
}

#[test]
fn one_that_cannot_say_what_it_is_does_not_run() {
    for describe in ["exit 1", "echo nonsense"] {
        let (output, report) = run(describe, ACCEPTS, &["--suite", "checksums"]);
        assert!(!output.status.success() && report.is_none(), "{}", said(&output));
    }
    let (output, _) = conform(&["--impl", "/no/such/program"]);
    assert!(said(&output).contains("/no/such/program"), "{}", said(&output));
}

#[test]
fn what_is_not_supported_is_skipped_and_counted() {
    let (output, report) = run(DESCRIBE, UNSUPPORTED, &["--suite", "checksums"]);
    assert!(output.status.success(), "{}", said(&output));
    let report = report.unwrap();
    assert_eq!((count(&report, "pass"), count(&report, "skipped")), (0, 50));
}

#[test]
fn known_failures_are_no_failures_until_they_pass_or_name_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let known = |text: &str| -> PathBuf {
        let path = folder.path().join("known");
        std::fs::write(&path, text).unwrap();
        path
    };
    let wrong = known("checksums/absent  # accepts without reading\n");
    let case = ["--suite", "checksums", "--case", "absent", "--known", wrong.to_str().unwrap()];
    let (output, report) = run(DESCRIBE, ACCEPTS, &case);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(count(&report.unwrap(), "known"), 2);
    // It passes: the entry is out of date.
    let (output, _) = conform(&[&["--impl", "OURS"], &case[..]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    for stale in [
        "checksums/no_such_case  # gone\n",
        "checksums/absent@fast  # no such profile\n",
        "checksums/absent\n",
    ] {
        let path = known(stale);
        let (output, report) = conform(&["--impl", "OURS", "--known", path.to_str().unwrap()]);
        assert!(!output.status.success() && report.is_none(), "{stale}: {}", said(&output));
    }
}

#[test]
fn vectors_that_are_not_those_of_the_index_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec-vectors");
    for file in std::fs::read_dir(vectors).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "json") {
            std::fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
        }
    }
    let vectors = ["--impl", "OURS", "--suite", "checksums", "--vectors", folder.path().to_str().unwrap()];
    assert!(conform(&vectors).0.status.success());
    let file = folder.path().join("checksums.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "\n").unwrap();
    let (output, _) = conform(&vectors);
    assert!(!output.status.success() && said(&output).contains("checksums"), "{}", said(&output));
}

#[test]
fn reports_for_machines_say_what_the_table_says() {
    let folder = tempfile::tempdir().unwrap();
    let junit = folder.path().join("junit.xml");
    let arguments = ["--suite", "checksums", "--junit", junit.to_str().unwrap()];
    let (_, report) = run(DESCRIBE, ACCEPTS, &arguments);
    let report = report.unwrap();
    let xml = std::fs::read_to_string(junit).unwrap();
    let read = quick_junit::Report::deserialize_from_str(&xml).unwrap();
    assert_eq!((read.tests as u64, read.failures as u64), (50, count(&report, "fail")));
    assert_eq!(count(&report, "pass") + count(&report, "fail"), 50);
    // The counts are those of what is listed.
    assert_eq!(xml.matches("<testcase ").count(), read.tests);
    assert_eq!(xml.matches("<failure").count(), read.failures);
    assert_eq!(report["cases"].as_array().unwrap().len(), 50);
    assert_eq!(report["as_expected"], false);
}
