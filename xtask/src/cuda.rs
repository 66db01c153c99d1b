//! CUDA without a GPU or a driver: a toolkit of PyPI wheels, and what is built with it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::sh::{cargo, command, run, say, target};
use crate::{flash_attention, venv};

/// Compilers, headers and libraries of one release, the oldest of CUDA 13, so that every driver for CUDA 13 takes what is built.
const WHEELS: &str = "\
nvidia-cuda-nvcc==13.0.88
nvidia-cuda-crt==13.0.88
nvidia-nvvm==13.0.88
nvidia-cuda-runtime==13.0.96
nvidia-cuda-cccl==13.0.85
nvidia-cublas==13.0.2.14
nvidia-curand==10.4.0.35
nvidia-cuda-nvrtc==13.0.88
";
/// Compute capability that is built for unless `CUDA_COMPUTE_CAP` says another: H100 and H200.
const COMPUTE_CAP: &str = "90";
/// What the driver's library is called where there is one.
const DRIVER: &str = "libcuda.so.1";
/// The suite of the engine on a GPU.
const SUITE: [&str; 9] = [
    "test",
    "--release",
    "--package",
    "avp-backend-candle",
    "--features",
    "cuda",
    "--locked",
    "--test",
    "cuda_suite",
];

/// Which kernels a build has beside those of candle.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernels {
    /// With attention by candle's operations.
    Plain,
    /// With flash attention, which takes hours more.
    FlashAttention,
}

/// `cargo xtask cuda-setup`: the toolkit, where it is not there yet.
pub(crate) fn setup() -> Result<()> {
    toolkit().map(drop)
}

/// `cargo xtask build --cuda`: the program.
pub(crate) fn build(kernels: Kernels) -> Result<()> {
    let feature = match kernels {
        Kernels::Plain => "cuda",
        Kernels::FlashAttention => "flash-attn",
    };
    let args = ["build", "--release", "--package", "avp-cli", "--features", feature, "--locked"];
    let mut build = with_toolkit(cargo(&args))?;
    if let Kernels::FlashAttention = kernels {
        flash_attention::prepare(&mut build, &target().join("cuda"), &python()?)?;
    }
    run("build with CUDA", &mut build)?;
    loads_driver(&program())?;
    say(&format!("    {}", program().display()));
    if given().is_none() {
        let lib = toolkit()?.join("lib");
        say(&format!("    it finds the libraries of CUDA 13 with LD_LIBRARY_PATH={}", lib.display()));
    }
    Ok(())
}

/// `cargo xtask test --cuda`: that everything compiles and links; and where there is a GPU, that it computes what a processor does.
pub(crate) fn test() -> Result<()> {
    build(Kernels::Plain)?;
    run("build the suite of the engine", &mut with_toolkit(cargo(&[&SUITE[..], &["--no-run"]].concat()))?)?;
    let gpu = command("nvidia-smi", &["-L"]).output().is_ok_and(|output| output.status.success());
    if !gpu {
        say(
            "    not run: nvidia-smi shows no GPU here; tests/gpu/run.py runs what was built on a machine that has one",
        );
        return Ok(());
    }
    let mut suite = with_toolkit(cargo(&SUITE))?;
    suite.env("AVP_GPU_TESTS", "required").env("LD_LIBRARY_PATH", libraries()?);
    run("the suite of the engine on the GPU", &mut suite)?;
    let python = venv::python(true)?;
    let (program, report) = (program().display().to_string(), target().join("cuda").join("gpu.json"));
    let report = report.display().to_string();
    let args = ["tests/gpu/run.py", "--avp", &program, "--json", &report, "--no-bench"];
    run("checks on the GPU", &mut command(python, &args))
}

/// Nothing else would tell before the program starts on a machine with a GPU.
fn loads_driver(program: &Path) -> Result<()> {
    let program = program.display().to_string();
    let output = command("readelf", &["-d", &program]).output().context("readelf of binutils")?;
    let needed = String::from_utf8_lossy(&output.stdout).contains(DRIVER);
    ensure!(needed, "{program} does not load {DRIVER}");
    Ok(())
}

fn program() -> PathBuf {
    output().join("release").join("avp")
}

/// Builds with CUDA are linked with other flags than those without; apart, neither makes the other start anew.
fn output() -> PathBuf {
    target().join("cuda").join("target")
}

/// `build` with the toolkit that it is to use: that of `CUDA_HOME` if it is set, else the one of wheels.
fn with_toolkit(mut build: Command) -> Result<Command> {
    let compiler = command("g++", &["--version"]).output().is_ok_and(|output| output.status.success());
    ensure!(compiler, "nvcc needs g++: apt-get install g++, then run this again");
    let given = given();
    let home = match &given {
        Some(home) => home.clone(),
        None => toolkit()?,
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bins = [home.join("bin")].into_iter().chain(std::env::split_paths(&path));
    build.env("PATH", std::env::join_paths(bins)?);
    if given.is_none() {
        // The stub lacks most functions: the driver of the machine that runs the program has them. This hides it too if any
        // other function is missing.
        let own = std::env::var("RUSTFLAGS").unwrap_or_default();
        let flags = format!("{own} -C link-arg=-Wl,--unresolved-symbols=ignore-all");
        build.env("RUSTFLAGS", flags.trim()).env_remove("CARGO_ENCODED_RUSTFLAGS");
    }
    build.env("CUDA_HOME", home);
    if std::env::var_os("CUDA_COMPUTE_CAP").is_none() {
        build.env("CUDA_COMPUTE_CAP", COMPUTE_CAP);
    }
    build.env("CARGO_TARGET_DIR", output());
    Ok(build)
}

/// The toolkit that is installed here.
fn given() -> Option<PathBuf> {
    std::env::var_os("CUDA_HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Where programs find the libraries of CUDA, and what was set before.
fn libraries() -> Result<OsString> {
    let lib = match given() {
        Some(home) => home.join("lib64"),
        None => toolkit()?.join("lib"),
    };
    let own = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&own).filter(|path| !path.as_os_str().is_empty()).collect();
    Ok(std::env::join_paths([lib].into_iter().chain(own))?)
}

/// The folder of the toolkit, installed or completed first.
fn toolkit() -> Result<PathBuf> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("the wheels are for Linux on x86-64; install a CUDA 13 toolkit and set CUDA_HOME");
    }
    let python = python()?;
    let lib = python.parent().and_then(Path::parent).context("the interpreter has no folder")?.join("lib");
    let versions =
        fs::read_dir(&lib).with_context(|| lib.display().to_string())?.flatten().map(|entry| entry.path());
    let mut toolkits = versions.map(|python| python.join("site-packages/nvidia/cu13"));
    let toolkit = toolkits.find(|toolkit| toolkit.join("bin/nvcc").is_file());
    let toolkit = toolkit.with_context(|| format!("no nvcc in {}", lib.display()))?;
    link_libraries(&toolkit)?;
    stub(&toolkit)?;
    Ok(toolkit)
}

/// The interpreter of the environment that the toolkit is in.
fn python() -> Result<PathBuf> {
    venv::packages(&target().join("cuda"), "wheels", WHEELS)
}

/// Names without versions, which linkers look for, and `lib64`, where build scripts look.
fn link_libraries(toolkit: &Path) -> Result<()> {
    let lib = toolkit.join("lib");
    for entry in fs::read_dir(&lib).with_context(|| lib.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((base, _)) = name.split_once(".so.") {
            link(&name, &lib.join(format!("{base}.so")))?;
        }
    }
    link("lib", &toolkit.join("lib64"))
}

fn link(to: &str, at: &Path) -> Result<()> {
    match symlink(to, at) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| at.display().to_string())
        }
        _ => Ok(()),
    }
}

/// A driver's library with one of its functions, to link against.
fn stub(toolkit: &Path) -> Result<()> {
    let stubs = toolkit.join("lib").join("stubs");
    let library = stubs.join("libcuda.so");
    fs::create_dir_all(&stubs)?;
    // A library of which nothing is used is not linked to, and then the driver's is not loaded.
    let source = stubs.join("stub.c");
    fs::write(&source, "int cuInit(unsigned flags) { return 100; }\n")?;
    let soname = format!("-Wl,-soname,{DRIVER}");
    let (source, path) = (source.display().to_string(), library.display().to_string());
    run(
        "make a stub of the driver's library",
        &mut command("cc", &["-shared", "-fPIC", &source, &soname, "-o", &path]),
    )?;
    ensure!(library.is_file(), "cc made no {path}");
    Ok(())
}
