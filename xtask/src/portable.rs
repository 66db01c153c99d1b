//! avp-wire where there is less than here: in WebAssembly, and without the standard library.

use anyhow::Result;

use crate::sh::{self, cargo, command, say};

/// A browser, and a machine whose target has no `std`, so that nothing can use it by mistake.
const TARGETS: [&str; 2] = ["wasm32-unknown-unknown", "x86_64-unknown-none"];

/// Checks the codec core for each target that is installed, or can be.
pub(crate) fn run() -> Result<()> {
    for target in TARGETS {
        if !is_there(target) && !add(target) {
            say(&format!(
                "==> avp-wire for {target}: skipped, the target is not installed (rustup target add {target})"
            ));
            continue;
        }
        let args = [
            "check",
            "--package",
            "avp-wire",
            "--no-default-features",
            "--features",
            "serde",
            "--target",
            target,
        ];
        sh::run(&format!("avp-wire for {target}"), &mut cargo(&args))?;
    }
    Ok(())
}

fn is_there(target: &str) -> bool {
    let output = command("rustc", &["--print", "target-libdir", "--target", target]).output();
    let folder = output.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    !folder.trim().is_empty() && std::path::Path::new(folder.trim()).is_dir()
}

fn add(target: &str) -> bool {
    command("rustup", &["target", "add", target]).output().is_ok_and(|output| output.status.success())
        && is_there(target)
}
