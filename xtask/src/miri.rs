//! `cargo xtask miri`: avp-wire's tests under Miri, which finds undefined behaviour, in our code and in what it calls.

use anyhow::{Result, ensure};

use crate::sh::{self, command};

/// What takes too long interpreted, or needs files or C code.
const SKIPPED: [&str; 3] = ["fuzzing::tests", "payload_buffer::tests", "compressed_frames"];

pub(crate) fn run() -> Result<()> {
    let there = command("cargo", &["+nightly", "miri", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    ensure!(there, "Miri is not there: rustup toolchain install nightly --component miri,rust-src");
    let mut miri = command("cargo", &["+nightly", "miri", "test", "--package", "avp-wire"]);
    // libzstd is C, and BLAKE3 has assembly unless it is told to do without.
    miri.args([
        "--no-default-features",
        "--features",
        "std,blake3/pure",
        "--lib",
        "--test",
        "slabs",
        "--test",
        "metadata",
    ]);
    miri.arg("--").args(SKIPPED.iter().flat_map(|name| ["--skip", name]));
    miri.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", "4");
    sh::run("avp-wire under Miri", &mut miri)
}
