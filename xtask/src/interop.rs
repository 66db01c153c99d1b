//! `cargo xtask interop`: the live tests against the Python SDK.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::sh::{self, cargo, command, target};
use crate::test::BUILD;
use crate::venv;

/// Runs the tests that are ignored elsewhere because they need the Python peer.
pub(crate) fn run(torch: bool) -> Result<()> {
    let python = venv::python(torch)?;
    let tests = ["python_peer", "python_http", "python_differential", "program"];
    let targets: Vec<_> = tests.into_iter().flat_map(|test| ["--test", test]).collect();
    let skipped: &[&str] = if torch { &[] } else { &["--skip", "python_torch"] };
    let args = [&["test"], &BUILD[..], &targets, &["--", "--ignored"], skipped].concat();
    sh::run("tests with the Python peer", cargo(&args).env("AVP_PYTHON", &python))?;
    conform(&python.display().to_string())
}

/// Python against the vectors: the SDK fails what is known, as spec-vectors/README.md says, and the example decoder nothing.
fn conform(python: &str) -> Result<()> {
    // As a program that tests need, so that nothing is built again without the features of their dependencies.
    let build = [&["test"], &BUILD[..], &["--no-run", "--test", "python_peer"]].concat();
    sh::run("build avp-conform", &mut cargo(&build))?;
    let program = target().join("release").join("avp-conform");
    let testee = format!("'{python}' spec-vectors/testees/avp_sdk.py");
    let known = "spec-vectors/testees/avp_sdk.known";
    let page = "spec-vectors/README.md";
    // Slow machines are no failure of the SDK.
    let args = ["--impl", &testee, "--known", known, "--markdown-check", page, "--timeout", "120"];
    sh::run("the Python SDK against the vectors", &mut command(&program, &args))?;
    let example = format!("'{python}' spec-vectors/examples/decoder.py");
    let args = ["--impl", &example, "--profile", "strict", "--profile", "default", "--profile", "lenient"];
    sh::run("the example decoder against the vectors", &mut command(&program, &args))
}

/// Mutated frames, read by the Python SDK and here, for some seconds.
pub(crate) fn differential(seconds: u64, seed: Option<u64>) -> Result<()> {
    let python = venv::python(false)?;
    let of_time = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let seed = seed.unwrap_or_else(of_time);
    let args = [&["test"], &BUILD[..], &["--test", "python_differential", "--", "--ignored", "--nocapture"]]
        .concat();
    let mut command = cargo(&args);
    command.env("AVP_PYTHON", python).env("AVP_DIFFERENTIAL_SEED", seed.to_string());
    command.env("AVP_DIFFERENTIAL_SECONDS", seconds.to_string());
    sh::run(&format!("mutated frames, seed {seed}"), &mut command)
}

/// Makes the contexts anew that the SDK made for the demo models.
pub(crate) fn fixtures() -> Result<()> {
    let python = venv::python(true)?;
    sh::run("contexts of the Python SDK", &mut command(python, &["tests/python/make_contexts.py"]))
}
