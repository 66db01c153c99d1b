//! Running a program under callgrind and reading what it counted.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::output;
use crate::sh::{self, command, say, target};

/// Valgrind, which is there.
pub(super) struct Valgrind {
    pub(super) version: String,
}

/// What a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Instructions of the program itself, not of its libraries.
    pub(super) instructions: u64,
    /// Calls from the program to its libraries.
    pub(super) calls: u64,
}

impl Valgrind {
    /// Finds valgrind; installs it where that is possible.
    pub(super) fn find() -> Result<Self> {
        let find = || output(&mut command("valgrind", &["--version"])).map(|version| Self { version });
        if let Ok(valgrind) = find() {
            return Ok(valgrind);
        }
        ensure!(
            sh::is_root() && command("apt-get", &["--version"]).output().is_ok(),
            "instructions are counted by valgrind, which is not installed (apt-get install valgrind libc6-dbg)"
        );
        say("    valgrind is not there; installing the Debian packages valgrind and libc6-dbg");
        sh::install(&["valgrind", "libc6-dbg"])?;
        find()
    }

    /// Counts one run of `program`.
    pub(super) fn count(&self, program: &Path, args: &[&str]) -> Result<Counted> {
        let profile = target().join("callgrind.out");
        let mut valgrind = command("valgrind", &["--tool=callgrind", "--dump-line=no"]);
        valgrind.args(["--compress-strings=no", "--compress-pos=no"]);
        valgrind.arg(format!("--callgrind-out-file={}", profile.display())).arg(program).args(args);
        let output = valgrind.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "callgrind ended with {}:\n{said}", output.status);
        let name = program.file_name().and_then(|name| name.to_str()).context("the program has no name")?;
        let text = std::fs::read(&profile).with_context(|| profile.display().to_string())?;
        Ok(read(&String::from_utf8_lossy(&text), name))
    }
}

/// Reads a profile in callgrind's format, its names and positions uncompressed: cost lines follow the `ob=` and `fn=` that
/// they belong to, and the one after `calls=` is of the function called.
fn read(profile: &str, program: &str) -> Counted {
    let is_ours = |object: &str| Path::new(object).file_name().is_some_and(|name| name == program);
    let mut counted = Counted::default();
    let (mut ours, mut callee_is_ours, mut of_callee) = (false, None, false);
    for line in profile.lines() {
        if let Some(object) = line.strip_prefix("ob=") {
            ours = is_ours(object);
        } else if let Some(object) = line.strip_prefix("cob=") {
            callee_is_ours = Some(is_ours(object));
        } else if let Some(calls) = line.strip_prefix("calls=") {
            // Without `cob=` the callee is of the caller's object.
            let within = callee_is_ours.take().unwrap_or(ours);
            if ours && !within {
                counted.calls += first_number(calls);
            }
            of_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            if ours && !of_callee {
                counted.instructions += line.split_once(' ').map_or(0, |(_, cost)| first_number(cost));
            }
            of_callee = false;
        }
    }
    counted
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
version: 1
positions: line
events: Ir

ob=/target/program
fl=main.rs
fn=main
0 5
cob=/lib/libc.so.6
cfi=malloc.c
cfn=malloc
calls=3 0
0 300
cfn=work
calls=2 0
0 40
fn=work
0 40

ob=/lib/libc.so.6
fl=malloc.c
fn=malloc
0 280
cob=/target/program
cfn=hook
calls=1 0
0 20

ob=/target/program
fn=hook
0 15
cfn=work
calls=1 0
0 5

totals: 345
";

    #[test]
    fn the_programs_own_instructions_and_its_calls_of_libraries_are_counted() {
        assert_eq!(read(PROFILE, "program"), Counted { instructions: 60, calls: 3 });
        assert_eq!(read(PROFILE, "libc.so.6"), Counted { instructions: 280, calls: 1 });
    }
}
