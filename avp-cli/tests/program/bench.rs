//! `avp bench` refuses what it cannot measure before it makes gigabytes of weights.

use crate::common::{avp, names, refused};

#[test]
fn a_shape_that_is_none_is_refused_with_those_that_there_are() {
    let output = avp(["bench", "--shape", "gpt-2"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    names(&stderr, &["gpt-2", "qwen2.5-0.5b", "qwen2.5-7b", "llama-3.1-8b"]);
}

#[test]
fn a_prefill_beyond_the_window_is_refused_with_the_window() {
    // This shape has 15 GB of weights in bf16, which no test makes.
    for prefill in ["32769", "512,131072"] {
        let args = ["bench", "--shape", "qwen2.5-7b", "--dtype", "bf16", "--prefill", prefill];
        let longest = prefill.rsplit(',').next().unwrap();
        names(&refused(&mut avp(args)), &[longest, "32768", "qwen2.5-7b", "--prefill"]);
    }
}

#[test]
fn numbers_that_measure_nothing_are_refused_with_their_option() {
    for (option, value) in [("--rounds", "0"), ("--steps", "0"), ("--prefill", "0"), ("--rounds", "26")] {
        let output = avp(["bench", "--shape", "qwen2.5-0.5b", option, value]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{option} {value}");
        names(&stderr, &[option, value]);
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_without_cuda_in_the_build_is_refused_with_how_to_build_it() {
    let line = refused(&mut avp(["bench", "--shape", "qwen2.5-0.5b", "--device", "cuda"]));
    names(&line, &["cuda", "cargo xtask build --cuda", "cpu"]);
}
