//! `cargo xtask mutants`: are the vectors strong enough? Each mutant of `tests/mutants/mutants.json` is one wrong line in
//! our own code. It is built in a copy of the sources, and avp-conform has to find it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::sh::{command, root, say, target};

/// Fewer than this would show little.
const LEAST: usize = 24;

/// One wrong line.
#[derive(Deserialize)]
struct Mutant {
    /// What is wrong with it.
    mutant: String,
    file: String,
    /// Text that the file has once.
    find: String,
    replace: String,
    /// Where the vectors are that have to fail.
    suites: Vec<String>,
}

pub(crate) fn run() -> Result<()> {
    let text = fs::read_to_string(root().join("tests/mutants/mutants.json"))
        .context("tests/mutants/mutants.json")?;
    let mutants: Vec<Mutant> = serde_json::from_str(&text).context("tests/mutants/mutants.json")?;
    ensure!(mutants.len() >= LEAST, "{} mutants, at least {LEAST} are wanted", mutants.len());
    let lab = Lab::new()?;
    say(&format!("==> {} mutants", mutants.len()));
    let mut survivors = Vec::new();
    for mutant in &mutants {
        let failed =
            lab.failing_cases(mutant).with_context(|| format!("{}: {}", mutant.file, mutant.mutant))?;
        say(&format!("    {failed:>4} cases of {:<22} {}", mutant.suites.join(" and "), mutant.mutant));
        if failed == 0 {
            survivors.push(mutant.mutant.as_str());
        }
    }
    ensure!(survivors.is_empty(), "the vectors do not tell: {}", survivors.join("; "));
    Ok(())
}

/// A copy of the sources with its own builds.
struct Lab {
    tree: PathBuf,
    builds: PathBuf,
    /// avp-conform, built from sound sources.
    runner: PathBuf,
}

impl Lab {
    /// Copies the sources, and checks that they pass as they are.
    fn new() -> Result<Self> {
        let lab = target().join("mutants");
        let (tree, builds) = (lab.join("tree"), lab.join("builds"));
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        for file in sources()? {
            copy(&root().join(&file), &tree.join(&file))?;
        }
        let lab = Self { tree, runner: lab.join("avp-conform"), builds };
        lab.build(&["avp-conform", "avp-testee"])?;
        copy(&lab.builds.join("debug").join("avp-conform"), &lab.runner)?;
        ensure!(
            lab.conform(&[])? == 0,
            "the sources do not pass as they are: cargo run -p avp-tests --bin avp-conform -- --impl OURS"
        );
        Ok(lab)
    }

    /// Cases that fail with the mutant in place.
    fn failing_cases(&self, mutant: &Mutant) -> Result<u64> {
        let path = self.tree.join(&mutant.file);
        let sound = fs::read_to_string(&path)?;
        let found = sound.matches(&mutant.find).count();
        ensure!(
            found == 1,
            "the text to replace is there {found} times; make tests/mutants/mutants.json follow the code"
        );
        fs::write(&path, sound.replace(&mutant.find, &mutant.replace))?;
        let failed = self.build(&["avp-testee"]).and_then(|()| self.conform(&mutant.suites));
        fs::write(&path, sound)?;
        failed
    }

    fn build(&self, programs: &[&str]) -> Result<()> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "avp-tests", "--no-default-features"]);
        cargo.args(programs.iter().flat_map(|program| ["--bin", program]));
        cargo.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.builds);
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0").env("RUSTFLAGS", "--cap-lints=allow");
        ensure!(cargo.status().context("cannot start cargo")?.success(), "it does not build");
        Ok(())
    }

    /// Cases that fail: of these suites, or of all.
    fn conform(&self, suites: &[String]) -> Result<u64> {
        let (testee, report) =
            (self.builds.join("debug").join("avp-testee"), self.builds.join("report.json"));
        let mut conform = command(&self.runner, &["--vectors", "spec-vectors"]);
        conform.arg("--impl").arg(testee).arg("--json").arg(&report);
        conform.args(suites.iter().flat_map(|suite| ["--suite", suite]));
        conform.output().context("cannot start avp-conform")?;
        let report: serde_json::Value = serde_json::from_slice(&fs::read(&report)?)?;
        report["total"]["fail"].as_u64().context("avp-conform's report has no number of failures")
    }
}

/// Rust sources and manifests of the workspace, as git knows them.
fn sources() -> Result<Vec<String>> {
    let args =
        ["ls-files", "--cached", "--others", "--exclude-standard", "--", "*.rs", "*Cargo.toml", "Cargo.lock"];
    let output = command("git", &args).output().context("cannot start git")?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8(output.stdout)?;
    Ok(files.lines().filter(|file| root().join(file).is_file()).map(str::to_owned).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a file has a folder")?;
    fs::create_dir_all(folder)?;
    fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}
