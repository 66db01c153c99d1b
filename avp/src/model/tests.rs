use std::fs;

use avp_backend_llamacpp::KvType;
use avp_wire::KvDtype;

use super::*;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/avp-demo-qwen2-s");
#[cfg(feature = "llamacpp")]
const GGUF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/gguf/avp-demo-qwen2-s-f16.gguf");

#[test]
fn a_reference_says_which_engine_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("blob"), b"GGUF and more").unwrap();
    fs::write(at("other"), b"GG").unwrap();
    fs::create_dir(at("folder.gguf")).unwrap();
    fs::create_dir(at("model.gguf")).unwrap();
    fs::write(at("model.gguf/config.json"), b"{}").unwrap();
    for (model, engine) in [
        ("ollama:llama3.2", Engine::LlamaCpp),
        ("missing.gguf", Engine::LlamaCpp),
        ("MISSING.GGUF", Engine::LlamaCpp),
        (&at("blob"), Engine::LlamaCpp),
        (&at("folder.gguf"), Engine::LlamaCpp),
        (&at("model.gguf"), Engine::Candle),
        (&at("other"), Engine::Candle),
        (DEMO, Engine::Candle),
        ("Qwen/Qwen2.5-0.5B", Engine::Candle),
        ("", Engine::Candle),
    ] {
        assert_eq!(Engine::of(model), engine, "{model}");
    }
    assert!(Engine::Candle.available() && Engine::LlamaCpp.available() == cfg!(feature = "llamacpp"));
}

/// The option that is refused for `model` where `set` sets one.
fn refused(model: &str, set: impl Fn(&mut ModelOptions)) -> (&'static str, Option<&'static str>) {
    let mut options = ModelOptions::default();
    set(&mut options);
    let loaded = load_backend(model, &options).map(drop);
    for result in [loaded, describe_model(model, &options).map(drop)] {
        match result {
            Err(error @ BackendError::NoSuchOption { .. }) => assert!(error.to_string().contains("option `")),
            other => panic!("{other:?}"),
        }
    }
    match load_backend(model, &options).map(drop) {
        Err(BackendError::NoSuchOption { option, instead, .. }) => (option, instead),
        other => panic!("{other:?}"),
    }
}

#[test]
fn candle_refuses_the_options_of_llama_cpp_by_name() {
    assert_eq!(refused(DEMO, |o| o.kv_type = Some(KvType::Q8)), ("kv_type", Some("dtype")));
    assert_eq!(refused(DEMO, |o| o.context_size = Some(64)), ("context_size", None));
    assert_eq!(refused(DEMO, |o| o.gpu_layers = Some(0)), ("gpu_layers", Some("device")));
    assert_eq!(refused(DEMO, |o| o.threads = Some(1)), ("threads", None));
    assert_eq!(refused(DEMO, |o| o.flash_attention = Some(true)), ("flash_attention", None));
    assert_eq!(refused(DEMO, |o| o.ollama_unload = true), ("ollama_unload", None));
}

#[test]
fn options_reach_candle() {
    let (dtype, model_id) = (Some(KvDtype::Bf16), Some("another".into()));
    let options = ModelOptions { dtype, model_id, ..Default::default() };
    let info = describe_model(DEMO, &options).unwrap();
    assert_eq!((info.dtype, info.identity.model_id.as_str()), (KvDtype::Bf16, "another"));
}

#[cfg(feature = "llamacpp")]
#[test]
fn llama_cpp_refuses_the_options_of_candle_by_name() {
    assert_eq!(refused(GGUF, |o| o.dtype = Some(KvDtype::F32)), ("dtype", Some("kv_type")));
    assert_eq!(refused(GGUF, |o| o.device = crate::Device::Cuda(0)), ("device", Some("gpu_layers")));
    assert_eq!(refused(GGUF, |o| o.ollama_unload = true), ("ollama_unload", None));
}

#[cfg(feature = "llamacpp")]
#[test]
fn options_reach_llama_cpp() {
    let mut options = ModelOptions {
        kv_type: Some(KvType::Bf16),
        context_size: Some(100),
        threads: Some(1),
        flash_attention: Some(false),
        model_id: Some("another".into()),
        ..Default::default()
    };
    let backend = load_backend(GGUF, &options).unwrap();
    let info = backend.info();
    assert_eq!(
        (info.dtype, info.max_positions, info.identity.model_id.as_str()),
        (KvDtype::Bf16, 100, "another")
    );
    let mut sequence = backend.new_sequence(8).unwrap();
    sequence.forward(avp_backend::Input::Tokens(&[1, 2, 3])).unwrap();
    options.kv_type = Some(KvType::Q8);
    let error = load_backend(GGUF, &options).map(drop).unwrap_err().to_string();
    assert!(error.contains("q8_0 without flash attention"), "{error}");
}

#[cfg(not(feature = "llamacpp"))]
#[test]
fn a_build_without_llama_cpp_says_so() {
    for model in ["ollama:llama3.2", "missing.gguf"] {
        let error = load_backend(model, &ModelOptions::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains(model) && error.contains("feature `llamacpp`"), "{error}");
    }
}
