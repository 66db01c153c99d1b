//! GGUF and Ollama references that cannot be used: one line that names what is wrong and what to do, in either build.

use std::fs;
use std::path::Path;

use crate::common::gguf::{Ollama, changed, gguf};
use crate::common::{NOTES, avp, names, refused, think};
use tempfile::tempdir;

const RUNS: bool = cfg!(feature = "llamacpp");

/// The line that refuses a model: in a build without llama.cpp it is always the same, but for the model.
fn refused_model(model: &str, ollama: &Path, words: &[&str]) {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out.avp");
    let line = refused(think(model, NOTES, &out).env("OLLAMA_MODELS", ollama));
    let without = ["feature `llamacpp`", "Hugging Face model folders"];
    names(&line, &[&[model][..], if RUNS { words } else { &without }].concat());
    assert!(!out.exists());
}

#[test]
fn gguf_files_that_are_none_are_refused_by_what_they_are() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let refused_file = |model: &str, words: &[&str]| refused_model(model, folder.path(), words);
    refused_file(&at("missing.gguf"), &["cannot be read", "check the path"]);
    fs::create_dir(at("folder.gguf")).unwrap();
    refused_file(&at("folder.gguf"), &["not a regular file", "give a GGUF file"]);
    fs::write(at("text.gguf"), b"What is this?").unwrap();
    refused_file(&at("text.gguf"), &["not a GGUF file", "'What'"]);
    fs::write(at("empty.gguf"), b"").unwrap();
    refused_file(&at("empty.gguf"), &["truncated"]);
    let whole = fs::read(gguf("avp-demo-qwen2-s-q8_0")).unwrap();
    fs::write(at("short.gguf"), &whole[..whole.len() / 2]).unwrap();
    refused_file(&at("short.gguf"), &["beyond its end", "truncated"]);
    // Whatever it is called.
    fs::write(at("blob"), &whole[..whole.len() / 2]).unwrap();
    refused_file(&at("blob"), &["truncated"]);
}

#[test]
fn models_that_llama_cpp_is_not_given_are_refused_by_architecture_or_tensor() {
    let folder = tempdir().unwrap();
    let refused_change = |from: &[u8], to: &[u8], words: &[&str]| {
        let file = changed("avp-demo-qwen2-s-f16", folder.path(), from, to);
        refused_model(file.to_str().unwrap(), folder.path(), words);
    };
    refused_change(b"qwen2", b"bloom", &["architecture bloom", "llama, qwen2, qwen3"]);
    refused_change(b"qwen2", b"mamba", &["'mamba'", "recurrent"]);
    refused_change(b"blk.0.attn_v.weight", b"blk.0.attn_w.weight", &["no tensor 'blk.0.attn_v.weight'"]);
    let pre = b"tokenizer.ggml.pre\x08\0\0\0\x05\0\0\0\0\0\0\0qwen2";
    let other = [&pre[..pre.len() - 5], b"bloom"].concat();
    refused_change(pre, &other, &["the pre-tokenizer bloom", "llama-bpe", "qwen2"]);
    let tensor = |ty: u32| {
        let name = b"token_embd.weight";
        let head = fs::read(gguf("avp-demo-qwen2-s-f16")).unwrap();
        let at = head.windows(name.len()).position(|window| window == name).unwrap();
        let from = head[at..at + name.len() + 24].to_vec();
        let mut to = from.clone();
        to[name.len() + 20..].copy_from_slice(&ty.to_le_bytes());
        (from, to)
    };
    for (ty, words) in [
        (25, &["'token_embd.weight' of type i16", "a type of weights"][..]),
        (31, &["'token_embd.weight' of type q4_0_4_4", "no longer reads"]),
        (999, &["'token_embd.weight' of the unknown type 999"]),
    ] {
        let (from, to) = tensor(ty);
        refused_change(&from, &to, words);
    }
}

#[test]
fn ollama_names_that_are_not_there_are_refused_with_those_that_are() {
    let mut ollama = Ollama::new();
    ollama.add("demo", "q8", &gguf("avp-demo-qwen2-s-q8_0"));
    ollama.add("broken", "latest", &gguf("avp-demo-qwen2-s-q8_0"));
    fs::remove_file(ollama.path().join("blobs").join(format!("sha256-{:064x}", 2))).unwrap();
    ollama.manifest("text", "latest", "not a manifest");
    let refused_name = |name: &str, words: &[&str]| refused_model(name, ollama.path(), words);
    refused_name("ollama:other", &["no Ollama model 'other:latest'", "demo:q8", "ollama pull other:latest"]);
    refused_name("ollama:demo", &["no Ollama model 'demo:latest'", "demo:q8"]);
    refused_name("ollama:../../etc/passwd", &["no name of an Ollama model", "[namespace/]name"]);
    refused_name("ollama:", &["name is empty"]);
    refused_name("ollama:broken", &["sha256-0", "is not there", "ollama pull"]);
    refused_name("ollama:text", &["is not a manifest", "ollama pull"]);
    let none = tempdir().unwrap();
    refused_model("ollama:demo:q8", none.path(), &["no Ollama models", "OLLAMA_MODELS"]);
}

#[test]
fn options_of_the_other_engine_are_refused_with_the_one_to_give() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("out.avp");
    let line = |model: &str, args: &[&str]| refused(think(model, NOTES, &out).args(args));
    let on_candle = |args: &[&str], words: &[&str]| {
        names(&line("avp-demo-qwen2-s", args), &[&["candle has no option"], words].concat());
    };
    on_candle(&["--kv-type", "q8_0"], &["--kv-type", "give --dtype"]);
    on_candle(&["--context-size", "64"], &["--context-size", "leave it out"]);
    on_candle(&["--gpu-layers", "1"], &["--gpu-layers", "give --device"]);
    on_candle(&["--threads", "1"], &["--threads"]);
    on_candle(&["--no-flash-attention"], &["--no-flash-attention"]);
    on_candle(&["--ollama-unload"], &["--ollama-unload"]);
    let file = gguf("avp-demo-qwen2-s-q8_0").display().to_string();
    let on_llamacpp = |args: &[&str], words: &[&str]| {
        names(&line(&file, args), if RUNS { words } else { &["feature `llamacpp`"] });
    };
    on_llamacpp(&["--dtype", "f32"], &["llama.cpp has no option --dtype", "give --kv-type"]);
    on_llamacpp(&["--device", "cuda"], &["llama.cpp has no option --device", "give --gpu-layers"]);
    on_llamacpp(&["--ollama-unload"], &["--ollama-unload"]);
    on_llamacpp(&["--kv-type", "q8_0", "--no-flash-attention"], &["q8_0 without flash attention"]);
    on_llamacpp(&["--context-size", "4"], &["window of 4 tokens"]);
    assert!(!out.exists());
}

#[test]
fn a_demo_on_an_engine_that_does_not_run_the_model_is_refused() {
    let file = gguf("avp-demo-qwen2-s-q8_0").display().to_string();
    let demo = |args: &[&str]| refused(&mut avp([&["demo", "--questions", "1"], args].concat()));
    names(&demo(&["--backend", "candle", "--model", &file]), &[&file, "is a model of llama.cpp"]);
    names(&demo(&["--pair", "llamacpp,candle", "--model", &file]), &[&file, "is a model of llama.cpp"]);
    let folder = tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    names(&demo(&["--backend", "llamacpp", "--model", path]), &[path, "is no model of llama.cpp"]);
    names(&demo(&["--kv-type", "f16"]), &["candle has no option --kv-type"]);
}
