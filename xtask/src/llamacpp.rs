//! llama.cpp: what its build needs, and files that only tests need.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use crate::sh::{cargo, command, install, is_root, root, run, say};
use crate::venv;

/// The demo models as GGUF files in f32 are made when they are needed, since nobody would use them.
const MODELS: [&str; 3] = ["avp-demo-llama", "avp-demo-qwen2-m", "avp-demo-qwen2-s"];

/// Sees to it that cmake, libclang and a C++ compiler are there.
pub(crate) fn ready() -> Result<()> {
    let runs = |program: &str| command(program, &["--version"]).output().is_ok_and(|o| o.status.success());
    let needs = [
        ("cmake", runs("cmake")),
        ("g++", runs("c++") || runs("g++") || runs("clang++")),
        ("make", runs("make") || runs("ninja")),
        ("libclang-dev", has_libclang()),
    ];
    let missing: Vec<&str> = needs.into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if is_root() {
        say(&format!("    llama.cpp is built from source; installing the Debian packages {packages}"));
        return install(&missing);
    }
    bail!("llama.cpp is built from source and needs more: apt-get install {packages}; then run this again")
}

/// Where bindgen looks for libclang.
fn has_libclang() -> bool {
    if std::env::var_os("LIBCLANG_PATH").is_some() {
        return true;
    }
    let holds = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("libclang"))
    };
    let below = |folder: &str, end: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().join(end)).any(|folder| holds(&folder))
    };
    ["/usr/lib64", "/usr/lib", "/usr/local/lib"].iter().any(|folder| holds(Path::new(folder)))
        || below("/usr/lib", "lib")
        || below("/usr/lib", "")
}

/// The tests of both engines that need files in f32.
pub(crate) fn exact(build: &[&str]) -> Result<()> {
    let python = venv::gguf()?;
    for model in MODELS {
        let out = root().join(format!("models/gguf/{model}-f32.gguf"));
        if !out.exists() {
            let (folder, out) = (format!("models/{model}"), out.display().to_string());
            let args = ["models/tool/to_gguf.py", &folder, "--type", "f32", "--out", &out];
            run("make a GGUF file in f32", &mut command(&python, &args))?;
        }
    }
    let args = [&["test"], build, &["--test", "engines", "--", "--ignored"]].concat();
    run("engines, exactly", &mut cargo(&args))
}
