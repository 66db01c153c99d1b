//! Running commands, with what is run said first.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where builds go.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// `cargo` with these arguments, in the root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args)
}

/// Any program, in the root.
pub(crate) fn command(program: impl AsRef<OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// Runs a command; an error unless it succeeds.
pub(crate) fn run(title: &str, command: &mut Command) -> Result<()> {
    say(&format!("==> {title}"));
    let started = Instant::now();
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{title}: {program} ended with {status}");
    say(&format!("    {:.0} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Installs Debian packages; for root.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    run("apt-get update", &mut command("apt-get", &["update", "-qq"]))?;
    run("apt-get install", &mut command("apt-get", &[&["install", "-y", "-qq"], packages].concat()))
}

pub(crate) fn is_root() -> bool {
    command("id", &["-u"]).output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Tells what goes on.
pub(crate) fn say(text: &str) {
    // Nothing is left to tell it to if stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}
