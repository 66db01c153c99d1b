//! `cargo xtask test`: all that CI runs.

use anyhow::Result;

use crate::sh::{self, cargo, command, say};
use crate::{instructions, interop, llamacpp, mutants, portable};

/// One profile and one selection of packages, so that the engine crates are built once.
pub(crate) const BUILD: [&str; 4] =
    ["--release", "--workspace", "--features", "avp-tests/bench,avp-tests/llamacpp,avp-cli/llamacpp"];

pub(crate) fn run() -> Result<()> {
    sh::run("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    sh::run("vectors", &mut command("python3", &["spec-vectors/tools/make.py", "--check"]))?;
    llamacpp::ready()?;
    // Tests before lints: what they build is what most people look for first.
    sh::run("tests", &mut cargo(&[&["test"], &BUILD[..]].concat()))?;
    llamacpp::exact(&BUILD)?;
    instructions::check_if_possible()?;
    interop::run(false)?;
    mutants::run()?;
    portable::run()?;
    let lints = [&["clippy"], &BUILD[..], &["--all-targets", "--", "-D", "warnings"]].concat();
    sh::run("lints", &mut cargo(&lints))?;
    let docs = [&["doc"], &BUILD[..], &["--no-deps"]].concat();
    sh::run("docs", cargo(&docs).env("RUSTDOCFLAGS", "-D warnings"))?;
    deny()
}

/// Licenses, bans and sources of the dependencies, where cargo-deny is installed.
fn deny() -> Result<()> {
    let there = command("cargo-deny", &["--version"]).output().is_ok_and(|output| output.status.success());
    if !there {
        say("==> dependencies: skipped, cargo-deny is not installed (cargo install --locked cargo-deny)");
        return Ok(());
    }
    sh::run("dependencies", &mut command("cargo-deny", &["check", "bans", "licenses", "sources"]))
}
