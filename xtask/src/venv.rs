//! Virtual environments with the Python peer, and with what makes GGUF files, made under the target folder when they are not there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::sh::{command, install, is_root, run, say, target};

/// The Python peer with its HTTP client and server, and what the decoder of spec-vectors/examples needs.
const PEER: &str = "avp==0.6.2\nnumpy\nprotobuf\nzstandard\nblake3\nfastapi\nhttpx[http2]\nhypercorn\n";
/// The Python peer with its Hugging Face engine.
const TORCH: &str = "avp==0.6.2\nnumpy\nprotobuf\nzstandard\nblake3\nfastapi\nhttpx[http2]\nhypercorn\ntorch==2.15.0\ntransformers==5.23.0\ntokenizers==0.23.3\nsafetensors\n";

/// What models/tool/to_gguf.py needs.
const GGUF: &str = include_str!("../../models/requirements-gguf.txt");

/// The interpreter of the Python peer's environment, which is made or completed first.
pub(crate) fn python(torch: bool) -> Result<PathBuf> {
    if torch { environment("venv-torch", TORCH) } else { environment("venv", PEER) }
}

/// The same of the environment that makes GGUF files.
pub(crate) fn gguf() -> Result<PathBuf> {
    environment("venv-gguf", GGUF)
}

fn environment(name: &str, packages: &str) -> Result<PathBuf> {
    self::packages(&target().join("interop"), name, packages)
}

/// The interpreter of the environment `name` in `folder`, which holds `packages` and is made or completed first.
pub(crate) fn packages(folder: &Path, name: &str, packages: &str) -> Result<PathBuf> {
    let folder = folder.join(name);
    let python = folder.join("bin").join("python");
    let done = folder.join("packages.txt");
    if fs::read_to_string(&done).is_ok_and(|made| made == packages) {
        return Ok(python);
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    make(&folder.display().to_string())?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, packages)?;
    let requirements = requirements.display().to_string();
    let args = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", &requirements];
    run("install Python packages", &mut command(&python, &args))?;
    fs::write(&done, packages)?;
    Ok(python)
}

/// `python3 -m venv`, which Debian keeps in a package of its own; `virtualenv` does as well.
fn make(folder: &str) -> Result<()> {
    if run("make a virtual environment", &mut command("python3", &["-m", "venv", "--clear", folder])).is_ok()
    {
        return Ok(());
    }
    if run("make one with virtualenv", &mut command("virtualenv", &["--quiet", "--clear", folder])).is_ok() {
        return Ok(());
    }
    if is_root() {
        say("    python3 -m venv is not there; installing the Debian package python3-venv");
        install(&["python3-venv"])?;
        return run(
            "make a virtual environment",
            &mut command("python3", &["-m", "venv", "--clear", folder]),
        );
    }
    bail!(
        "Python packages need a virtual environment: install python3-venv (apt-get install python3-venv), then run this again"
    )
}
