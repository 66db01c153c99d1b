//! `cargo xtask bench`: the table of figures, each beside what it is measured against.

use anyhow::Result;

use crate::sh::{self, cargo, command, target};
use crate::test::BUILD;
use crate::{llamacpp, venv};

pub(crate) fn run(args: &[&str]) -> Result<()> {
    let torch = args.contains(&"--torch");
    let python = venv::python(torch)?.display().to_string();
    let out = target().join("bench");
    std::fs::create_dir_all(&out)?;
    let (json, html) = (out.join("bench.json"), out.join("bench.html"));
    let (json, html) = (json.display().to_string(), html.display().to_string());
    let models = out.join("models").display().to_string();
    let own: Vec<&str> = args.iter().copied().filter(|arg| *arg != "--torch").collect();
    llamacpp::ready()?;
    let build = [&["build"], &BUILD[..]].concat();
    sh::run("build", &mut cargo(&build))?;
    let program = target().join("release").join("avp-bench");
    let args =
        [&["--python", &python, "--json", &json, "--html", &html, "--models", &models][..], &own].concat();
    // The memcpy of glibc before 2.39 loses by a factor on AMD's Zen where addresses lie badly (its bug 30994); neither
    // side of a comparison is to have that by luck.
    let even = ("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=1000000000");
    sh::run("benches", command(program, &args).env(even.0, even.1))
}
