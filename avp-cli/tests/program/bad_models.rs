//! A model folder that lacks a file or lies: one line that names the file and what is wrong, and no panic.

use std::fs;
use std::path::Path;

use crate::common::{listing, models, names, refused, think};
use serde_json::Value;
use tempfile::{TempDir, tempdir};

const MODEL: &str = "avp-demo-qwen2-s";
const NOTES: &str = "Notes: Homes: Finn Madrid, Dora Porto.";

/// A copy of a demo model to spoil.
fn model() -> TempDir {
    let folder = tempdir().unwrap();
    for file in listing(&models().join(MODEL)) {
        fs::copy(&file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    folder
}

fn refused_model(folder: &TempDir, words: &[&str]) {
    let out = folder.path().join("out.avp");
    let path = folder.path().to_str().unwrap();
    let line = refused(&mut think(path, NOTES, &out));
    names(&line, &[&[path][..], words].concat());
    assert!(!out.exists());
}

#[test]
fn a_model_folder_with_a_missing_or_broken_file_is_refused_by_that_file() {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let folder = model();
        let path = folder.path().join(file);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        refused_model(&folder, &[file, "give a Hugging Face model folder"]);
        for bytes in [&b""[..], b"\xFF\x00{[", &whole[..whole.len() / 2], &whole[..whole.len() - 3]] {
            fs::write(&path, bytes).unwrap();
            refused_model(&folder, &[file]);
        }
    }
    names(
        &refused(&mut think("/no/such/folder", NOTES, Path::new("out.avp"))),
        &["/no/such/folder", "give a"],
    );
    let folder = model();
    let file = folder.path().join("config.json");
    let line = refused(&mut think(file.to_str().unwrap(), NOTES, Path::new("out.avp")));
    names(&line, &["config.json", "is a file"]);
}

#[test]
fn a_config_that_lies_about_the_weights_is_refused_by_what_is_wrong() {
    let cases: [(&str, Value, &[&str]); 8] = [
        ("num_hidden_layers", 5.into(), &["model.layers.3"]),
        ("hidden_size", 192.into(), &["192"]),
        ("vocab_size", 100.into(), &["796", "100"]),
        ("model_type", "mamba".into(), &["mamba", "supported"]),
        ("num_attention_heads", 0.into(), &["num_attention_heads", "0"]),
        ("num_key_value_heads", 2.into(), &["num_key_value_heads"]),
        ("max_position_embeddings", 99_999_999_999_u64.into(), &["max_position_embeddings"]),
        ("hidden_size", "wide".into(), &["hidden_size"]),
    ];
    for (key, value, words) in cases {
        let folder = model();
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        refused_model(&folder, words);
    }
}

#[test]
fn weights_that_lie_about_themselves_are_refused() {
    let folder = model();
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let len = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let (header, data) = whole[8..].split_at(len);
    let header: Value = serde_json::from_slice(header).unwrap();
    let name = "model.embed_tokens.weight";
    let lie = |key: &str, value: Value| {
        let mut header = header.clone();
        header[name][key] = value;
        assemble(&header.to_string(), data)
    };
    let mut without = header.clone();
    without.as_object_mut().unwrap().remove(name);
    let cases = [
        lie("data_offsets", [0, 1_u64 << 62].to_vec().into()),
        lie("data_offsets", [8, 0].to_vec().into()),
        lie("shape", [1_u64 << 40, 1 << 40].to_vec().into()),
        lie("shape", [3, 5].to_vec().into()),
        lie("dtype", "F64".into()),
        lie("dtype", "Q9".into()),
        assemble(&without.to_string(), data),
        [&(1_u64 << 60).to_le_bytes()[..], &whole[8..]].concat(),
    ];
    for bytes in cases {
        fs::write(&path, bytes).unwrap();
        refused_model(&folder, &["model.safetensors"]);
    }
    // Every weight is NaN.
    fs::write(&path, assemble(&header.to_string(), &vec![0xFF; data.len()])).unwrap();
    let line = refused(&mut think(folder.path().to_str().unwrap(), NOTES, &folder.path().join("out.avp")));
    names(&line, &["not finite", "prefill"]);
    assert!(!folder.path().join("out.avp").exists());
}

fn assemble(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}
