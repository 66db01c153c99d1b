//! The demo as a newcomer runs it: a second process, three ways to answer, and the promise of identical tokens.

use crate::common::{avp, json, names, refused};
use avp::transport::Scheme;
use serde_json::Value;

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_demo_hands_over_losslessly_and_saves_the_second_agent_the_notes() {
    let demo = json(["demo", "--questions", "3"]);
    assert_eq!(demo["identical"], true);
    let questions = demo["questions"].as_array().unwrap();
    assert_eq!(questions.len(), 3);
    assert!(number(&demo["receiver_tokens"]["latent"]) < number(&demo["receiver_tokens"]["text"]));
    let moved: f64 = questions.iter().map(|question| number(&question["latent"]["bytes"])).sum();
    assert!(moved > 0.0 && number(&demo["bytes"]) == moved);
    for way in ["direct", "text", "latent"] {
        let correct = questions.iter().filter(|question| question[way]["correct"] == true).count();
        assert_eq!(number(&demo["accuracy"][way]), correct as f64 / 3.0, "{way}");
        for question in questions {
            assert!(question[way]["answer"].is_string(), "{way}: {question}");
        }
    }
    for question in questions {
        assert_eq!(question["identical"], true);
        // The latent receiver reads the question only.
        assert!(
            number(&question["latent"]["receiver_tokens"]) < number(&question["text"]["receiver_tokens"])
        );
        assert!(question["question"].is_string() && question["expected"].is_string());
    }
    for way in ["text", "latent"] {
        let sum: f64 = questions.iter().map(|question| number(&question[way]["receiver_tokens"])).sum();
        assert_eq!(number(&demo["receiver_tokens"][way]), sum, "{way}");
    }
}

#[test]
fn the_demo_runs_with_every_demo_model_and_type() {
    for (model, dtype) in [("avp-demo-qwen2-s", "bf16"), ("avp-demo-llama", "f32")] {
        let demo = json(["demo", "--questions", "1", "--model", model, "--dtype", dtype]);
        assert_eq!((&demo["identical"], &demo["model"]), (&true.into(), &model.into()));
    }
}

#[test]
fn the_demo_runs_over_every_transport_between_processes() {
    let transports = [
        ("tcp", Scheme::Tcp),
        ("tls", Scheme::Tls),
        ("quic", Scheme::Quic),
        ("shm", Scheme::SharedMemory),
        ("http", Scheme::Http),
        ("https", Scheme::Https),
    ];
    for (transport, scheme) in transports {
        let args = ["demo", "--questions", "1", "--model", "avp-demo-qwen2-s", "--transport", transport];
        if scheme.available() {
            let demo = json(args);
            assert_eq!((&demo["identical"], &demo["transport"]), (&true.into(), &scheme.as_str().into()));
        } else {
            names(&refused(&mut avp(args)), &[scheme.as_str(), "not available in this build", "avp+tcp"]);
        }
    }
}

#[test]
fn the_demo_prints_a_table_with_a_row_for_each_question() {
    let output = avp(["demo", "--questions", "2"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for part in ["direct", "text", "latent"] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    assert!(text.contains("identical to one process doing both, token for token: 2/2"), "{text}");
}

#[test]
fn a_demo_of_more_questions_than_there_are_is_refused() {
    let output = avp(["demo", "--questions", "1000000"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && stderr.lines().count() == 1 && stderr.contains("--questions"),
        "{stderr}"
    );
}

#[cfg(feature = "llamacpp")]
#[test]
fn the_demo_runs_on_llama_cpp_and_from_one_engine_to_the_other() {
    let engines: [&[&str]; 3] =
        [&["--backend", "llamacpp"], &["--pair", "candle,llamacpp"], &["--pair", "llamacpp,candle"]];
    for engines in engines {
        for model in ["avp-demo-qwen2-m", "avp-demo-llama"] {
            let demo = json([&["demo", "--questions", "2", "--model", model], engines].concat());
            assert_eq!((&demo["identical"], &demo["resolution"]), (&true.into(), &"structural_match".into()));
        }
    }
}

#[test]
fn a_pair_that_is_none_is_refused_with_an_example() {
    for pair in ["candle", "candle,other", "candle,candle,candle", ""] {
        let output = avp(["demo", "--pair", pair]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains("as in candle,llamacpp"), "{pair}: {stderr}");
    }
}
