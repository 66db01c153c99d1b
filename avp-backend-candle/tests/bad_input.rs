//! Model folders with missing and lying files: one clear line each, and never a panic.
#![allow(missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use avp_backend::{Backend, Input};
use avp_backend_candle::{CandleBackend, LoadOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A copy of a fixture that a test may spoil.
struct Folder(TempDir);

impl Folder {
    fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(common::folder(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() != "expected.safetensors" {
                std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        Self(dir)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn remove(&self, file: &str) {
        std::fs::remove_file(self.path(file)).unwrap();
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(file), bytes).unwrap();
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&self.read(file)).unwrap()
    }

    /// Sets keys of `config.json`.
    fn config(&self, changes: &Value) {
        let mut config = self.json("config.json");
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        self.write("config.json", config.to_string());
    }

    fn load(&self) -> Result<CandleBackend, String> {
        let cache_dir = Some(self.path("cache"));
        let options = LoadOptions { cache_dir, ..LoadOptions::default() };
        CandleBackend::load(self.0.path(), &options).map_err(|e| e.to_string())
    }
}

/// Loads a spoiled fixture: the error must be one line that has all of `named`.
fn check(fixture: &str, spoil: impl Fn(&Folder), named: &[&str]) {
    let folder = Folder::of(fixture);
    spoil(&folder);
    let error = folder.load().map(drop).expect_err(&format!("loads in spite of {named:?}"));
    assert!(!error.contains('\n'), "{error}");
    for part in named {
        assert!(error.contains(part), "{error:?} does not name {part:?}");
    }
}

fn check_config(fixture: &str, changes: Value, named: &[&str]) {
    check(fixture, |f| f.config(&changes), named);
}

#[test]
fn missing_files_are_named() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        check("qwen2-tied", |f| f.remove(file), &[file, "give a Hugging Face model folder"]);
    }
    let shard = "model-00002-of-00003.safetensors";
    check("qwen2-untied-sharded", |f| f.remove(shard), &[shard, "model.safetensors.index.json names"]);
    let lone = |path: &Path| CandleBackend::load(path, &LoadOptions::default()).unwrap_err().to_string();
    assert!(lone(Path::new("/nowhere/at all")).contains("does not exist; give a Hugging Face model folder"));
    assert!(lone(&common::folder("qwen2-tied/config.json")).contains("is a file; give the"));
}

#[test]
fn files_that_are_not_json_are_named() {
    let files = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"];
    for file in files {
        check("qwen2-tied", |f| f.write(file, "{\"a\": "), &[file]);
        check("qwen2-tied", |f| f.write(file, "[1]"), &[file]);
        check("qwen2-tied", |f| f.write(file, [0xff, 0xfe, 0]), &[file]);
        check("qwen2-tied", |f| f.write(file, ""), &[file]);
        check("qwen2-tied", |f| f.write(file, "[".repeat(100_000)), &[file]);
    }
    check("qwen2-tied", |f| f.write("chat_template.jinja", [0xff]), &["chat_template.jinja", "UTF-8"]);
    check("qwen2-untied-sharded", |f| f.write("model.safetensors.index.json", "{}"), &["weight_map"]);
}

#[test]
fn lying_configs_are_named_by_key() {
    for (changes, named) in [
        (json!({"model_type": "gpt2"}), vec!["model_type \"gpt2\"", "supported: llama"]),
        (json!({"model_type": null}), vec!["model_type is missing"]),
        (json!({"quantization_config": {"quant_method": "gptq"}}), vec!["quantized by gptq"]),
        (json!({"hidden_act": "relu"}), vec!["activation \"relu\""]),
        (json!({"num_attention_heads": 0}), vec!["num_attention_heads must be an integer from 1"]),
        (json!({"num_attention_heads": -4}), vec!["num_attention_heads", "is -4"]),
        (json!({"num_attention_heads": 3, "num_key_value_heads": 3}), vec!["must divide hidden_size 32"]),
        (json!({"num_key_value_heads": 3}), vec!["num_key_value_heads must divide", "is 3"]),
        (json!({"head_dim": 7}), vec!["head_dim must be even"]),
        (json!({"hidden_size": 1u64 << 60}), vec!["hidden_size must be an integer from 1 to 1048576"]),
        (json!({"hidden_size": 31.5}), vec!["hidden_size", "31.5"]),
        (json!({"hidden_size": null}), vec!["hidden_size is missing"]),
        (json!({"vocab_size": 97}), vec!["model.embed_tokens.weight has shape [96, 32]", "[97, 32]"]),
        (json!({"intermediate_size": 47}), vec!["mlp.gate_proj.weight has shape [48, 32]"]),
        (json!({"num_hidden_layers": 3}), vec!["no tensor model.layers.2."]),
        (json!({"num_hidden_layers": 1}), vec!["has tensor model.layers.1.", "no use for"]),
        (json!({"num_hidden_layers": 4_000_000_000u64}), vec!["num_hidden_layers must be an integer"]),
        (json!({"max_position_embeddings": 1u64 << 62}), vec!["max_position_embeddings must be"]),
        (json!({"rms_norm_eps": -1}), vec!["rms_norm_eps must be above 0"]),
        (json!({"tie_word_embeddings": false}), vec!["no tensor lm_head.weight"]),
        (json!({"tie_word_embeddings": "yes"}), vec!["tie_word_embeddings must be true or false"]),
        (json!({"model_type": "qwen3"}), vec!["q_proj.weight has shape"]),
        (json!({"model_type": "llama"}), vec!["k_proj.bias", "no use for"]),
        (json!({"eos_token_id": "x"}), vec!["eos_token_id must be token ids"]),
        (json!({"rope_parameters": {"rope_type": "longrope"}}), vec!["rope type \"longrope\"", "yarn"]),
        (json!({"rope_parameters": {"rope_type": "linear"}}), vec!["rope_parameters.factor is missing"]),
        (json!({"rope_parameters": {"rope_theta": 1e300}}), vec!["rope_theta", "not finite"]),
        (json!({"rope_parameters": 3}), vec!["rope_parameters must be an object"]),
        (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), vec!["partial_rotary_factor"]),
    ] {
        check_config("qwen2-tied", changes, &named);
    }
    check_config("gemma3", json!({"layer_types": ["full_attention"]}), &["layer_types has 1 entries"]);
    check_config("gemma3", json!({"sliding_window": null}), &["sliding_window is missing"]);
    check_config("gemma3", json!({"use_bidirectional_attention": true}), &["use_bidirectional_attention"]);
}

#[test]
fn lying_checkpoints_are_named_by_file_and_tensor() {
    let file = "model.safetensors";
    let cut = |f: &Folder| f.write(file, &f.read(file)[..5000]);
    check("qwen2-tied", cut, &[file, "not a whole safetensors file", "download it again"]);
    check("qwen2-tied", |f| f.write(file, ""), &[file]);
    check("qwen2-tied", |f| f.write(file, u64::MAX.to_le_bytes()), &[file, "at most 100000000 are read"]);
    let retyped = |f: &Folder| {
        let header = |bytes: &[u8]| {
            let n = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
            (8 + n, String::from_utf8(bytes[8..8 + n].to_vec()).unwrap())
        };
        let bytes = f.read(file);
        let (end, text) = header(&bytes);
        let text = text.replace("\"F32\"", "\"I32\"");
        f.write(file, [&bytes[..8], text.as_bytes(), &bytes[end..]].concat());
    };
    check("qwen2-tied", retyped, &[file, "is of type I32; supported: F32, F16, BF16"]);
    let twice = |f: &Folder| {
        f.write("model-b.safetensors", f.read(file));
        std::fs::rename(f.path(file), f.path("model-a.safetensors")).unwrap();
    };
    check("qwen2-tied", twice, &["model-b.safetensors", "model-a.safetensors"]);
    let outside = |f: &Folder| {
        let map = json!({"weight_map": {"model.norm.weight": "../model.safetensors"}});
        f.write("model.safetensors.index.json", map.to_string());
    };
    check("qwen2-tied", outside, &["../model.safetensors", "not a file name"]);
}

#[test]
fn shards_without_an_index_are_all_read() {
    let folder = Folder::of("qwen2-untied-sharded");
    folder.remove("model.safetensors.index.json");
    assert!(folder.load().is_ok());
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_device_that_this_build_lacks_is_named() {
    let options = LoadOptions { device: avp_backend_candle::Device::Cuda(1), ..LoadOptions::default() };
    let error = CandleBackend::load(common::folder("qwen2-tied"), &options).unwrap_err().to_string();
    assert!(error.contains("cuda:1"), "{error}");
}

/// What loads in spite of a spoiled file must also run without a panic.
fn exercise(backend: &CandleBackend) {
    let codec = backend.codec();
    let ids = codec.encode("the hand<|im_end|>é and 3", true).unwrap_or_default();
    let _ = codec.decode(&[0, 5, 50, 95, 4_000_000_000], true);
    let Ok(mut sequence) = backend.new_sequence(4) else { return };
    let _ = sequence.forward(Input::Tokens(&ids));
    let _ = sequence.forward(Input::Tokens(&[1, 2, 3]));
}

#[test]
fn no_value_of_any_config_key_causes_a_panic() {
    let hostile = [
        json!(null),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(1e308),
        json!(1e-308),
        json!(u64::MAX),
        json!("x"),
        json!(true),
        json!([]),
        json!([null, {}]),
        json!({}),
        json!({"rope_type": "yarn", "factor": 1e-300, "rope_theta": 1.0}),
        json!({"rope_type": "llama3", "factor": 1e300, "low_freq_factor": 1e-300, "high_freq_factor": 2}),
    ];
    for fixture in ["qwen2-window", "gemma3", "gemma2", "llama-yarn", "llama3-old-config"] {
        let folder = Folder::of(fixture);
        for file in ["config.json", "tokenizer_config.json", "generation_config.json"] {
            let original = folder.json(file);
            for key in original.as_object().unwrap().keys() {
                for value in &hostile {
                    let mut spoiled = original.clone();
                    spoiled[key] = value.clone();
                    folder.write(file, spoiled.to_string());
                    folder.load().iter().for_each(exercise);
                }
            }
            folder.write(file, original.to_string());
        }
        folder.load().unwrap();
    }
}

/// Calls `visit` with `rounds` spoiled copies of `bytes`: some bytes overwritten, some runs cut out.
fn spoiled(bytes: &[u8], within: usize, rounds: u64, visit: impl Fn(&[u8])) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..rounds {
        let mut copy = bytes.to_vec();
        for _ in 0..=random(3) {
            let at = random(within.min(copy.len()));
            match random(3) {
                0 => copy[at] = b"0129{}[],:\"-eaz"[random(15)],
                1 => copy[at] ^= 1 << random(8),
                _ => drop(copy.drain(at..(at + random(20)).min(copy.len()))),
            }
        }
        visit(&copy);
    }
}

#[test]
fn no_spoiled_tokenizer_causes_a_panic() {
    let folder = Folder::of("qwen2-tied");
    let original = folder.read("tokenizer.json");
    spoiled(&original, original.len(), 600, |bytes| {
        folder.write("tokenizer.json", bytes);
        folder.load().iter().for_each(exercise);
    });
}

/// Paths (JSON pointers) of all values in `value` but the entries of long maps and lists.
fn pointers(value: &Value, at: &str, out: &mut Vec<String>) {
    out.push(at.to_owned());
    match value {
        Value::Object(map) => map.iter().take(12).for_each(|(k, v)| {
            pointers(v, &format!("{at}/{}", k.replace('~', "~0").replace('/', "~1")), out)
        }),
        Value::Array(items) => {
            items.iter().take(2).enumerate().for_each(|(i, v)| pointers(v, &format!("{at}/{i}"), out));
        }
        _ => {}
    }
}

#[test]
fn no_value_in_a_tokenizer_causes_a_panic() {
    let hostile = [
        json!(null),
        json!(-1),
        json!(u64::MAX),
        json!("x"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"type": "Sequence"}),
    ];
    let folder = Folder::of("qwen2-tied");
    let original = folder.json("tokenizer.json");
    let mut paths = Vec::new();
    pointers(&original, "", &mut paths);
    assert!(paths.len() > 40);
    for path in paths {
        for value in &hostile {
            let mut spoiled = original.clone();
            *spoiled.pointer_mut(&path).unwrap() = value.clone();
            folder.write("tokenizer.json", spoiled.to_string());
            folder.load().iter().for_each(exercise);
        }
    }
    for normalizer in [
        json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        json!({"type": "Replace", "pattern": {"Regex": "("}, "content": ""}),
    ] {
        let mut spoiled = original.clone();
        spoiled["normalizer"] = normalizer;
        folder.write("tokenizer.json", spoiled.to_string());
        folder.load().iter().for_each(exercise);
    }
}

#[test]
fn no_spoiled_checkpoint_header_causes_a_panic() {
    let folder = Folder::of("qwen2-tied");
    let original = folder.read("model.safetensors");
    let header = usize::try_from(u64::from_le_bytes(*original.first_chunk().unwrap())).unwrap();
    spoiled(&original, 8 + header, 600, |bytes| {
        folder.write("model.safetensors", bytes);
        folder.load().iter().for_each(exercise);
    });
    for len in (0..original.len()).step_by(997) {
        folder.write("model.safetensors", &original[..len]);
        assert!(folder.load().is_err(), "cut to {len} bytes");
    }
}
