//! What model a file is, and which models are refused by name.

use avp_backend_llamacpp::gguf::{GgufFault, ModelMeta};

use crate::writer::{Put, Writer};

fn meta(change: impl FnOnce(&mut Writer)) -> Result<ModelMeta, GgufFault> {
    of("qwen2", change)
}

fn of(architecture: &str, change: impl FnOnce(&mut Writer)) -> Result<ModelMeta, GgufFault> {
    let mut file = Writer::model(architecture);
    change(&mut file);
    file.open().unwrap().meta().map_err(|error| {
        let text = error.to_string();
        assert!(text.chars().all(|c| !c.is_control()), "{text}");
        error.fault
    })
}

fn bad(key: &str, change: impl FnOnce(&mut Writer)) {
    match meta(change) {
        Err(GgufFault::BadValue { key: named, .. }) => assert_eq!(named, key),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_shape_of_a_model_is_read_with_llama_cpps_defaults() {
    let plain = meta(|_| {}).unwrap();
    assert_eq!((plain.architecture.as_str(), plain.name.as_deref()), ("qwen2", Some("A small one")));
    assert_eq!((plain.block_count, plain.kv_layers(), plain.embedding_length), (2, 2, 32));
    assert_eq!((plain.head_count, plain.head_count_kv, plain.head_dim), (4, 2, 8));
    assert_eq!((plain.rope_dimension_count, plain.rope_freq_base, plain.rms_eps), (8, 1e6, Some(1e-6)));
    assert_eq!((plain.context_length, plain.vocab_size), (2048, 5));
    assert_eq!((plain.bos, plain.eos, plain.eot, plain.add_bos), (None, Some(3), None, None));
    assert_eq!((plain.chat_template, plain.weights), (None, None));

    let set = meta(|file| {
        file.without("qwen2.rope.freq_base");
        file.without("qwen2.attention.head_count_kv");
        file.put("qwen2.attention.key_length", Put::U32(16));
        file.put("qwen2.attention.value_length", Put::U32(16));
        file.put("qwen2.attention.sliding_window", Put::U32(0));
        file.put("tokenizer.ggml.bos_token_id", Put::U32(0));
        file.put("tokenizer.ggml.eot_token_id", Put::U32(4));
        file.put("tokenizer.ggml.add_bos_token", Put::Bool(false));
        file.put("tokenizer.chat_template", Put::str("{{ messages }}"));
        file.put("avp.weights", Put::Str("0a".repeat(32)));
    });
    let set = set.unwrap();
    assert_eq!((set.head_count_kv, set.head_dim, set.rope_freq_base), (4, 16, 10_000.0));
    assert_eq!((set.bos, set.eot, set.add_bos), (Some(0), Some(4), Some(false)));
    assert_eq!(set.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(set.weights.unwrap().to_string(), "0a".repeat(32));
}

#[test]
fn equal_numbers_for_each_layer_count_as_one() {
    let heads = |kv: Vec<i32>| {
        meta(|file| {
            file.put("qwen2.attention.head_count", Put::U32s(vec![4, 4]));
            file.put("qwen2.attention.head_count_kv", Put::I32s(kv));
        })
    };
    assert_eq!(heads(vec![2, 2]).unwrap().head_count_kv, 2);
    assert!(matches!(heads(vec![2, 4]), Err(GgufFault::UnequalLayers { .. })));
    assert!(matches!(heads(vec![2, 0]), Err(GgufFault::UnequalLayers { .. })));
    assert!(matches!(heads(vec![2]), Err(GgufFault::BadValue { .. })));
    assert!(matches!(heads(vec![2, -2]), Err(GgufFault::BadValue { .. })));
}

#[test]
fn recurrent_and_hybrid_models_are_refused_by_name() {
    for architecture in ["mamba", "mamba2", "rwkv6", "rwkv7", "jamba", "falcon-h1", "qwen3next", "lfm2"] {
        let error = Writer::model(architecture).open().unwrap().meta().unwrap_err().to_string();
        assert!(
            error.contains(architecture) && error.contains("has no KV cache that can be shared"),
            "{error}"
        );
    }
    let by_key = of("newest", |file| {
        file.put("newest.ssm.state_size", Put::U32(16));
    });
    assert!(matches!(by_key, Err(GgufFault::Recurrent { .. })));
}

#[test]
fn models_of_other_kinds_are_refused_by_name() {
    for architecture in ["bert", "t5", "clip", "llada"] {
        assert!(matches!(of(architecture, |_| {}), Err(GgufFault::NotCausal { .. })), "{architecture}");
    }
    let causal = meta(|file| {
        file.put("qwen2.attention.causal", Put::Bool(false));
    });
    assert!(matches!(causal, Err(GgufFault::NotCausal { .. })));
    let latent = of("deepseek2", |file| {
        file.put("deepseek2.attention.kv_lora_rank", Put::U32(512));
    });
    assert!(matches!(latent, Err(GgufFault::LatentAttention { .. })));
    let shared = of("gemma3", |file| {
        file.put("gemma3.attention.shared_kv_layers", Put::U32(1));
    });
    assert!(matches!(shared, Err(GgufFault::UnequalLayers { .. })));
    bad("general.type", |file| {
        file.put("general.type", Put::str("adapter"));
    });
    let split = meta(|file| {
        file.put("split.count", Put::U16(2));
    });
    assert!(matches!(split, Err(GgufFault::Split { count: 2 })));
}

#[test]
fn sliding_windows_are_refused_by_name() {
    let windowed = |architecture: &str, window: Option<u32>| {
        of(architecture, |file| {
            if let Some(window) = window {
                file.put(&format!("{architecture}.attention.sliding_window"), Put::U32(window));
            }
        })
    };
    for (architecture, window) in [
        ("llama", Some(4096)),
        ("gemma3", Some(512)),
        ("gemma2", None),
        ("llama4", None),
        ("gpt-oss", Some(0)),
    ] {
        let refused = windowed(architecture, window);
        assert!(matches!(refused, Err(GgufFault::SlidingWindow { .. })), "{architecture} {refused:?}");
    }
    for (architecture, window) in [("llama", None), ("llama", Some(0)), ("gemma3", None), ("llama4", Some(0))]
    {
        assert!(windowed(architecture, window).is_ok(), "{architecture}");
    }
}

#[test]
fn values_on_which_llama_cpp_aborts_are_refused_by_name() {
    let put = |name: &'static str, value: Put| move |file: &mut Writer| file.put(name, value);
    bad("qwen2.block_count", put("qwen2.block_count", Put::U32(0)));
    bad("qwen2.block_count", put("qwen2.block_count", Put::U32(513)));
    bad("qwen2.nextn_predict_layers", put("qwen2.nextn_predict_layers", Put::U32(2)));
    bad("qwen2.attention.head_count", put("qwen2.attention.head_count", Put::U32(0)));
    bad("qwen2.attention.head_count_kv", put("qwen2.attention.head_count_kv", Put::U32(3)));
    bad("qwen2.attention.head_count_kv", put("qwen2.attention.head_count_kv", Put::U32(0)));
    bad("qwen2.embedding_length", put("qwen2.embedding_length", Put::U32(33)));
    bad("qwen2.attention.value_length", put("qwen2.attention.value_length", Put::U32(16)));
    bad("qwen2.rope.dimension_count", put("qwen2.rope.dimension_count", Put::U32(9)));
    bad("qwen2.rope.freq_base", put("qwen2.rope.freq_base", Put::F32(f32::NAN)));
    bad("qwen2.rope.scaling.type", put("qwen2.rope.scaling.type", Put::str("spiral")));
    bad("qwen2.context_length", put("qwen2.context_length", Put::U32(0)));
    bad("qwen2.expert_used_count", put("qwen2.expert_used_count", Put::U32(1)));
    bad("qwen2.expert_used_count", put("qwen2.expert_count", Put::U32(8)));
    bad("qwen2.expert_count", put("qwen2.expert_count", Put::U32(1025)));
    bad("tokenizer.ggml.eos_token_id", put("tokenizer.ggml.eos_token_id", Put::U32(5)));
    bad("avp.weights", put("avp.weights", Put::str("0A")));
    let missing = meta(|file| file.without("qwen2.block_count"));
    assert!(matches!(missing, Err(GgufFault::MissingKey { key }) if key == "qwen2.block_count"));
}
