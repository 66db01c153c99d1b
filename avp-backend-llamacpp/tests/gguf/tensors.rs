//! The tensors of a model are those that its metadata say, or the first that is not is named.

use avp_backend_llamacpp::gguf::{GgmlType, GgufFault, GgufFile};

use crate::writer::{Put, PutTensor, Writer};

/// A whole model: 2 layers, width 32, 4 heads on 2 of length 8, 64 in the feed-forward part, 5 tokens.
fn whole(architecture: &str) -> Writer {
    let mut file = Writer::model(architecture);
    file.put(&format!("{architecture}.feed_forward_length"), Put::U32(64));
    file.tensors.clear();
    let mut put = |name: &str, dims: &[u64], ty: GgmlType| file.tensors.push(PutTensor::new(name, dims, ty));
    put("token_embd.weight", &[32, 5], GgmlType::F16);
    put("output_norm.weight", &[32], GgmlType::F32);
    for layer in 0..2 {
        let name = |part: &str| format!("blk.{layer}.{part}");
        put(&name("attn_norm.weight"), &[32], GgmlType::F32);
        put(&name("attn_q.weight"), &[32, 32], GgmlType::Q8_0);
        put(&name("attn_k.weight"), &[32, 16], GgmlType::Q8_0);
        put(&name("attn_v.weight"), &[32, 16], GgmlType::Q4_0);
        put(&name("attn_output.weight"), &[32, 32], GgmlType::BF16);
        if architecture == "qwen2" {
            put(&name("attn_q.bias"), &[32], GgmlType::F32);
            put(&name("attn_k.bias"), &[16], GgmlType::F32);
            put(&name("attn_v.bias"), &[16], GgmlType::F32);
        }
        if architecture == "qwen3" {
            put(&name("attn_q_norm.weight"), &[8], GgmlType::F32);
            put(&name("attn_k_norm.weight"), &[8], GgmlType::F32);
        }
        put(&name("ffn_norm.weight"), &[32], GgmlType::F32);
        put(&name("ffn_gate.weight"), &[32, 64], GgmlType::F32);
        put(&name("ffn_down.weight"), &[64, 32], GgmlType::F16);
        put(&name("ffn_up.weight"), &[32, 64], GgmlType::F16);
    }
    file
}

fn checked(file: &Writer) -> Result<(), GgufFault> {
    let file: GgufFile = file.open().unwrap();
    let meta = file.meta().map_err(|error| error.fault)?;
    file.check_tensors(&meta).map_err(|error| {
        let text = error.to_string();
        assert!(text.chars().all(|c| !c.is_control()) && text.len() < 600, "{text}");
        error.fault
    })
}

const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];

#[test]
fn whole_models_pass_and_without_any_of_their_tensors_are_refused_by_it() {
    for architecture in ARCHITECTURES {
        let file = whole(architecture);
        checked(&file).unwrap();
        for (i, tensor) in file.tensors.iter().enumerate() {
            let mut less = file.clone();
            less.tensors.remove(i);
            match checked(&less) {
                Err(GgufFault::MissingTensor { name }) => assert_eq!(name, tensor.name),
                Ok(()) => assert!(tensor.name.ends_with(".bias"), "{}", tensor.name),
                other => panic!("{}: {other:?}", tensor.name),
            }
        }
    }
}

#[test]
fn a_tensor_of_another_shape_is_refused_by_name_with_the_shape_that_the_metadata_say() {
    for architecture in ARCHITECTURES {
        let file = whole(architecture);
        for i in 0..file.tensors.len() {
            let dims = file.tensors[i].dims.clone();
            let mut others = vec![[&dims[..], &[2]].concat()];
            others.push(dims.iter().map(|dim| dim * 2).collect());
            if dims.len() == 2 && dims[0] != dims[1] && dims[1].is_multiple_of(32) {
                others.push(vec![dims[1], dims[0]]);
            }
            for other in others {
                let mut file = file.clone();
                file.tensors[i].dims = other.clone();
                match checked(&file) {
                    Err(GgufFault::TensorShape { name, dims: got, expected }) => {
                        assert_eq!((&name, &got, &expected), (&file.tensors[i].name, &other, &dims));
                    }
                    result => panic!("{} as {other:?}: {result:?}", file.tensors[i].name),
                }
            }
        }
        let mut file = whole(architecture);
        file.tensors[0].dims.push(1);
        checked(&file).unwrap();
    }
}

#[test]
fn a_tensor_of_a_type_that_llama_cpp_does_not_compute_with_is_refused_by_name() {
    for ty in GgmlType::ALL {
        for architecture in ARCHITECTURES {
            for i in 0..whole(architecture).tensors.len() {
                let mut file = whole(architecture);
                let is_vector = file.tensors[i].dims.len() == 1;
                let mut row = file.tensors[i].dims.clone();
                row.truncate(1);
                if !row[0].is_multiple_of(ty.block_len()) {
                    continue;
                }
                file.tensors[i].ty = ty.id();
                let fits = if is_vector { *ty == GgmlType::F32 } else { ty.is_weight() };
                match checked(&file) {
                    Ok(()) => assert!(fits, "{ty} {}", file.tensors[i].name),
                    Err(GgufFault::TensorType { name, ty: got, .. }) => {
                        assert!(!fits && name == file.tensors[i].name && got == *ty, "{ty} {name}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[test]
fn tensors_of_no_such_model_are_refused_by_name() {
    for (architecture, name, dims) in [
        ("llama", "blk.2.attn_norm.weight", &[32][..]),
        ("llama", "blk.0.ffn_gate_inp.weight", &[32, 4]),
        // These would change logits, which are products with the output table here.
        ("qwen2", "output.bias", &[5]),
        ("qwen2", "rope_freqs.weight", &[4]),
        ("qwen3", "cls_out.weight", &[32, 2]),
    ] {
        let mut file = whole(architecture);
        file.tensors.push(PutTensor::new(name, dims, GgmlType::F32));
        let fault = checked(&file).unwrap_err();
        assert!(matches!(&fault, GgufFault::UnknownTensor { name: named, .. } if named == name), "{fault}");
    }
}

#[test]
fn tensors_that_models_may_have_pass() {
    let with = |architecture: &str, name: &str, dims: &[u64]| {
        let mut file = whole(architecture);
        file.tensors.push(PutTensor::new(name, dims, GgmlType::F32));
        checked(&file)
    };
    for architecture in ARCHITECTURES {
        with(architecture, "output.weight", &[32, 5]).unwrap();
        with(architecture, "blk.1.ffn_up.scale", &[1]).unwrap();
    }
    with("llama", "rope_freqs.weight", &[4]).unwrap();
    with("llama", "blk.0.attn_output.bias", &[32]).unwrap();
    with("llama", "blk.0.ffn_down.bias", &[32]).unwrap();

    let mut fused = whole("llama");
    fused.tensors.retain(|t| !["attn_q.", "attn_k.", "attn_v."].iter().any(|part| t.name.contains(part)));
    for layer in 0..2 {
        fused.tensors.push(PutTensor::new(&format!("blk.{layer}.attn_qkv.weight"), &[32, 64], GgmlType::F16));
    }
    checked(&fused).unwrap();

    let mut experts = whole("llama");
    experts.put("llama.expert_count", Put::U32(4));
    experts.put("llama.expert_used_count", Put::U32(2));
    assert!(matches!(checked(&experts), Err(GgufFault::MissingTensor { name }) if name.contains("gate_inp")));
    experts.tensors.retain(|t| !t.name.contains("ffn_") || t.name.contains("ffn_norm"));
    for layer in 0..2 {
        let mut put = |part: &str, dims: &[u64]| {
            let name = format!("blk.{layer}.{part}.weight");
            experts.tensors.push(PutTensor::new(&name, dims, GgmlType::F16));
        };
        put("ffn_gate_inp", &[32, 4]);
        put("ffn_gate_exps", &[32, 64, 4]);
        put("ffn_down_exps", &[64, 32, 4]);
        put("ffn_up_exps", &[32, 64, 4]);
    }
    checked(&experts).unwrap();

    // What is not known here is llama.cpp's to judge.
    checked(&Writer::model("newest")).unwrap();
}

#[test]
fn metadata_that_fit_no_tensors_are_refused_by_key() {
    let bad = |architecture: &str, key: &str, value: Put| {
        let mut file = whole(architecture);
        file.put(key, value);
        match checked(&file) {
            Err(GgufFault::BadValue { key, .. }) => key,
            other => panic!("{other:?}"),
        }
    };
    // llama.cpp asserts both when it computes.
    let rotated = bad("qwen3", "qwen3.rope.dimension_count", Put::U32(4));
    assert_eq!(rotated, "qwen3.rope.dimension_count");
    let mut longer = whole("qwen2");
    longer.put("qwen2.attention.key_length", Put::U32(16));
    longer.put("qwen2.attention.value_length", Put::U32(16));
    let fault = checked(&longer).unwrap_err();
    assert!(
        matches!(&fault, GgufFault::BadValue { key, .. } if key == "qwen2.attention.key_length"),
        "{fault}"
    );
    for key in ["feed_forward_length", "attention.layer_norm_rms_epsilon"] {
        let mut less = whole("llama");
        less.without(&format!("llama.{key}"));
        assert!(matches!(checked(&less), Err(GgufFault::MissingKey { key: named }) if named.ends_with(key)));
    }
    let mut layers = whole("llama");
    layers.put("llama.feed_forward_length", Put::U32s(vec![64, 32]));
    assert!(matches!(checked(&layers), Err(GgufFault::UnequalLayers { .. })));
}

#[test]
fn the_demo_models_are_whole() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/gguf");
    let mut count = 0;
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "gguf")) {
        let file = GgufFile::open(path).unwrap();
        file.check_tensors(&file.meta().unwrap()).unwrap();
        count += 1;
    }
    assert!(count >= 6, "{count}");
}
