//! Repository tasks. `cargo xtask` lists them.

mod bench;
#[cfg(unix)]
mod cuda;
#[cfg(unix)]
mod flash_attention;
mod fuzz;
mod instructions;
mod interop;
mod llamacpp;
mod miri;
mod mutants;
mod portable;
mod sh;
mod test;
mod transfers;
mod venv;

use std::env;
use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask test               everything that CI runs: format, lints, docs, all tests, the Python peer live
cargo xtask interop [--torch]  the Python peer alone; --torch adds transformers (5.6 GB of packages)
cargo xtask mutants            whether the vectors tell wrong code from right
cargo xtask fuzz [ARGS]        every fuzz target for a minute, or as --help says; needs a C++ compiler
cargo xtask miri               avp-wire under Miri; needs a nightly toolchain
cargo xtask bench [ARGS]       the benchmark table; --torch adds the transformers columns, other arguments go to avp-bench
cargo xtask bench --check      instruction counts of small calls against xtask/instructions.json; needs valgrind
cargo xtask bench --baseline   writes that file anew
cargo xtask cuda-setup         a CUDA toolkit of PyPI packages under target/cuda, for machines that have none (1.2 GB)
cargo xtask build --cuda       `avp` for NVIDIA GPUs, with that toolkit or that of CUDA_HOME; needs neither GPU nor driver
               --flash-attn    with flash attention for prefill, whose 53 kernels take minutes each
cargo xtask test --cuda        that it compiles and links, and where there is a GPU, that it computes what a processor does
cargo xtask transfers [ARGS]   answers between all pairs of demo models, as docs/benchmarks.md has them; ARGS go to `avp demo`
cargo xtask vectors            the vectors of spec-vectors that are made by hand, anew
cargo xtask fixtures           contexts made by the Python SDK, anew (needs the packages of interop --torch)";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            sh::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["test"] => test::run(),
        #[cfg(unix)]
        ["cuda-setup"] => cuda::setup(),
        #[cfg(unix)]
        ["build", "--cuda"] => cuda::build(cuda::Kernels::Plain),
        #[cfg(unix)]
        ["build", "--cuda", "--flash-attn"] => cuda::build(cuda::Kernels::FlashAttention),
        #[cfg(unix)]
        ["test", "--cuda"] => cuda::test(),
        ["interop"] => interop::run(false),
        ["interop", "--torch"] => interop::run(true),
        ["fixtures"] => interop::fixtures(),
        ["vectors"] => vectors(),
        ["miri"] => miri::run(),
        ["mutants"] => mutants::run(),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["transfers", rest @ ..] => transfers::run(rest),
        ["bench", "--check"] => instructions::check(),
        ["bench", "--baseline"] => instructions::write(),
        ["bench", rest @ ..] => bench::run(rest),
        _ => bail!("usage:\n{USAGE}"),
    }
}

/// Makes the vectors anew that are made here; the others were made with the Python SDK.
fn vectors() -> Result<()> {
    sh::run("vectors", &mut sh::command("python3", &["spec-vectors/tools/make.py"]))
}
