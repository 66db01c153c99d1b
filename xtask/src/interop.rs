//! `cargo xtask interop`: the live tests against the Python SDK.

use anyhow::Result;

use crate::sh::{self, cargo, command};
use crate::test::BUILD;
use crate::venv;

/// Runs the tests that are ignored elsewhere because they need the Python peer.
pub(crate) fn run(torch: bool) -> Result<()> {
    let python = venv::python(torch)?;
    let mut targets = vec!["--test", "python_peer"];
    if torch {
        targets.extend(["--test", "python_torch"]);
    }
    let args = [&["test"], &BUILD[..], &targets, &["--", "--ignored"]].concat();
    sh::run("tests with the Python peer", cargo(&args).env("AVP_PYTHON", python))
}

/// Makes the contexts anew that the SDK made for the demo models.
pub(crate) fn fixtures() -> Result<()> {
    let python = venv::python(true)?;
    sh::run("contexts of the Python SDK", &mut command(python, &["tests/python/make_contexts.py"]))
}
