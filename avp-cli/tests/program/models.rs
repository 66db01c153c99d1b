//! `avp models` lists what is here of every kind, whether or not this build runs it.

use std::fs;

use crate::common::gguf::{Ollama, changed, gguf};
use crate::common::{avp, json, models};
use serde_json::Value;
use tempfile::tempdir;

const RUNS: bool = cfg!(feature = "llamacpp");

fn listed(ollama: &std::path::Path, args: &[&str]) -> Vec<Value> {
    let output = avp([&["models", "--json"], args].concat()).env("OLLAMA_MODELS", ollama).output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list["models"].as_array().unwrap().clone()
}

fn named<'a>(list: &'a [Value], name: &str) -> &'a Value {
    let found: Vec<&Value> = list.iter().filter(|model| model["name"] == name).collect();
    assert_eq!(found.len(), 1, "{name}: {list:?}");
    found[0]
}

#[test]
fn demo_models_are_listed_as_folders_and_as_gguf_files() {
    let none = tempdir().unwrap();
    let list = listed(none.path(), &[]);
    let folder = named(&list, "avp-demo-qwen2-s");
    let file = named(&list, "avp-demo-qwen2-s-q8_0.gguf");
    assert_eq!((&folder["engine"], &folder["usable"]), (&"candle".into(), &true.into()));
    assert_eq!((&file["engine"], &file["usable"]), (&"llama.cpp".into(), &RUNS.into()));
    for key in ["model_family", "hidden_dim", "num_layers", "num_kv_heads", "head_dim"] {
        assert!(!folder[key].is_null() && folder[key] == file[key], "{key}: {folder} {file}");
    }
    assert_eq!(file["weights_type"], "q8_0");
    assert_eq!(file["bytes"], fs::metadata(gguf("avp-demo-qwen2-s-q8_0")).unwrap().len());
    if !RUNS {
        assert!(file["error"].as_str().unwrap().contains("feature `llamacpp`"), "{file}");
    }
    if RUNS {
        // The name that is listed is one that is taken.
        let out = none.path().join("out.avp");
        let args =
            ["think", "--model", "avp-demo-qwen2-s-q8_0.gguf", "--prompt", "Notes", "--steps", "0", "-o"];
        json(args.into_iter().chain([out.to_str().unwrap()]));
    }
}

#[test]
fn ollamas_models_are_listed_and_those_that_are_broken_say_how() {
    let mut ollama = Ollama::new();
    let folder = tempdir().unwrap();
    ollama.add("demo", "q8", &gguf("avp-demo-qwen2-s-q8_0"));
    ollama.add("demo", "again", &gguf("avp-demo-llama-f16"));
    ollama.add("other", "latest", &changed("avp-demo-qwen2-s-f16", folder.path(), b"qwen2", b"mamba"));
    ollama.add("gone", "latest", &gguf("avp-demo-qwen2-s-q8_0"));
    fs::remove_file(ollama.path().join("blobs").join(format!("sha256-{:064x}", 4))).unwrap();
    ollama.add("cut", "latest", &gguf("avp-demo-qwen2-s-q8_0"));
    let cut = ollama.path().join("blobs").join(format!("sha256-{:064x}", 5));
    fs::write(&cut, vec![0; fs::metadata(&cut).unwrap().len() as usize]).unwrap();
    ollama.manifest("text", "latest", "{");
    fs::write(ollama.path().join("manifests/registry.ollama.ai/a file"), b"in the way").unwrap();

    let list = listed(ollama.path(), &[]);
    let demo = named(&list, "ollama:demo:q8");
    assert_eq!((&demo["model_family"], &demo["usable"]), (&"qwen2".into(), &RUNS.into()));
    assert_eq!(named(&list, "ollama:demo:again")["model_family"], "llama");
    let error = |name: &str| named(&list, name)["error"].as_str().unwrap().to_owned();
    let other = named(&list, "ollama:other:latest");
    assert_eq!((&other["model_family"], &other["usable"]), (&"mamba".into(), &false.into()));
    assert!(error("ollama:gone:latest").contains("is not there"));
    assert!(error("ollama:cut:latest").contains("not a GGUF file"));
    assert!(error("ollama:text:latest").contains("is not a manifest"));

    let text = avp(["models"]).env("OLLAMA_MODELS", ollama.path()).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert_eq!(text.lines().count(), list.len(), "{text}");
    assert!(text.lines().any(|line| line.contains("ollama:gone:latest") && line.contains("not usable")));
}

#[test]
fn a_folder_of_gguf_files_can_be_named() {
    let (folder, none) = (tempdir().unwrap(), tempdir().unwrap());
    fs::copy(gguf("avp-demo-llama-q8_0"), folder.path().join("mine.gguf")).unwrap();
    fs::write(folder.path().join("bad.gguf"), b"GGUF").unwrap();
    fs::create_dir(folder.path().join("dir.gguf")).unwrap();
    let list = listed(none.path(), &["--dir", folder.path().to_str().unwrap()]);
    assert_eq!(named(&list, "mine.gguf")["model_family"], "llama");
    assert!(named(&list, "bad.gguf")["error"].as_str().unwrap().contains("truncated"));
    assert!(!list.iter().any(|model| model["name"] == "dir.gguf"));
    assert!(models().is_dir());
}
