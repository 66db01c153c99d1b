//! CUTLASS for the kernels of flash attention: their build script would fetch from GitHub one that CUDA 13 does not compile.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::sh::{command, run};

/// A release of CUTLASS that CUDA 13 compiles; 3.5 is none.
const WHEEL: &str = "nvidia-cutlass==4.2.0.0";
/// Where its headers lie in the wheel.
const SOURCE: &str = "cutlass_library/source";
/// What candle-flash-attn 0.11.1 asks for: its build script takes a checkout that says it is of this commit.
const COMMIT: &str = "7d49e6c7e2f8896c47f586706e67e1fb215529dc";
/// How much of the commit is in the name of the checkout.
const PREFIX: usize = 16;

/// Has `build` find the headers under `folder`, which are installed by `python` first, and keep the compiled kernels there.
pub(crate) fn prepare(build: &mut Command, folder: &Path, python: &Path) -> Result<()> {
    let wheel = folder.join("cutlass");
    let headers = wheel.join(SOURCE);
    if !headers.join("include").is_dir() {
        let to = wheel.display().to_string();
        let args = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            &to,
            WHEEL,
        ];
        run("install CUTLASS", &mut command(python, &args))?;
        ensure!(headers.join("include").is_dir(), "{WHEEL} has no {SOURCE}/include");
    }
    let home = folder.join("cudaforge");
    let prefix = COMMIT.get(..PREFIX).unwrap_or(COMMIT);
    checkout(&home.join("git").join("checkouts").join(format!("cutlass-{prefix}")), &headers)?;
    let kernels = folder.join("flash-attention");
    fs::create_dir_all(&kernels)?;
    build.env("CUDAFORGE_HOME", home).env("CANDLE_FLASH_ATTN_BUILD_DIR", kernels);
    Ok(())
}

/// A repository at [`COMMIT`], which need not exist, with the headers beside it.
fn checkout(at: &Path, headers: &Path) -> Result<()> {
    fs::create_dir_all(at.join("tools").join("util"))?;
    let path = at.display().to_string();
    run("make a checkout of CUTLASS", &mut command("git", &["init", "--quiet", &path]))?;
    fs::write(at.join(".git").join("HEAD"), format!("{COMMIT}\n"))?;
    for include in ["include", "tools/util/include"] {
        let (from, to) = (headers.join(include), at.join(include));
        let from = fs::canonicalize(&from).with_context(|| from.display().to_string())?;
        if fs::canonicalize(&to).ok() != Some(from.clone()) {
            let _ = fs::remove_file(&to);
            symlink(&from, &to).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}
