//! GGUF files and Ollama's models, run as others are, and from one engine to the other.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;

use crate::common::gguf::{Ollama, changed, gguf};
use crate::common::{Question, Server, avp, greedy_args, json, questions, tokens};
use serde_json::Value;
use tempfile::tempdir;

/// `avp think` on the notes of a question, with what it prints.
fn think(model: &str, notes: &str, output: &Path, more: &[&str]) -> Value {
    let args = ["think", "--model", model, "--prompt", notes, "--steps", "2", "-o", output.to_str().unwrap()];
    json(args.iter().chain(more))
}

fn generate(model: &str, question: &Question, context: &Path, more: &[&str]) -> Value {
    let args =
        ["generate", "--model", model, "--prompt", &question.ask, "--context", context.to_str().unwrap()];
    json(args.iter().chain(more).map(|arg| (*arg).to_owned()).chain(greedy_args()))
}

fn ask(server: &Server, question: &Question, context: &Path) -> Value {
    let args =
        ["ask", "--to", &server.url, "--prompt", &question.ask, "--context", context.to_str().unwrap()];
    json(args.map(str::to_owned).into_iter().chain(greedy_args()))
}

#[test]
fn a_gguf_file_thinks_generates_and_answers() {
    let folder = tempdir().unwrap();
    let context = folder.path().join("notes.avp");
    let file = gguf("avp-demo-qwen2-m-q8_0").display().to_string();
    let question = &questions()[0];
    let thought = think(&file, &question.notes, &context, &["--threads", "1"]);
    assert_eq!(thought["latent_steps"], 2);
    assert!(thought["weights"].is_string(), "{thought}");
    let here = generate(&file, question, &context, &[]);
    assert_eq!(here["verification"], "verified");
    let server = Server::start(&file, &["--require-verified"]);
    let there = ask(&server, question, &context);
    assert_eq!((&there["handover"], &there["verified"]), (&"kv".into(), &true.into()), "{there}");
    assert!(!tokens(&here).is_empty());
    assert_eq!(tokens(&there), tokens(&here));
}

#[test]
fn a_context_goes_on_in_the_other_engine_verified() {
    let folder = tempdir().unwrap();
    let context = folder.path().join("notes.avp");
    for model in ["avp-demo-qwen2-m", "avp-demo-llama"] {
        let file = gguf(&format!("{model}-f16")).display().to_string();
        let (file, f32) = (file.as_str(), &["--kv-type", "f32"][..]);
        for (from, first, to, second) in [(model, &[][..], file, f32), (file, f32, model, &[][..])] {
            let server = Server::start(to, &[&["--require-verified"], second].concat());
            for question in questions().iter().take(2) {
                think(from, &question.notes, &context, first);
                let there = ask(&server, question, &context);
                let how = (&there["handover"], &there["verified"], &there["resolution"]);
                assert_eq!(how, (&"kv".into(), &true.into(), &"structural_match".into()), "{there}");
                let here = generate(from, question, &context, first);
                assert_eq!(there["text"], here["text"], "{from} to {to}");
                assert!(there["context_tokens"].as_u64().unwrap() > 0);
            }
        }
    }
}

#[test]
fn every_type_of_cache_is_one_that_contexts_go_on_from() {
    let folder = tempdir().unwrap();
    let context = folder.path().join("notes.avp");
    let file = gguf("avp-demo-qwen2-m-f16").display().to_string();
    let question = &questions()[0];
    for args in [
        &["--kv-type", "f32"][..],
        &["--kv-type", "bf16", "--no-flash-attention"],
        &["--kv-type", "q8_0", "--context-size", "256"],
        &["--kv-type", "f16", "--gpu-layers", "0", "--threads", "2"],
    ] {
        think(&file, &question.notes, &context, args);
        let written = generate(&file, question, &context, args);
        assert_eq!(written["verification"], "verified", "{args:?}");
        assert!(!tokens(&written).is_empty(), "{args:?}");
    }
}

#[test]
fn ollamas_models_think_generate_and_answer() {
    let mut ollama = Ollama::new();
    ollama.add("demo", "q8", &gguf("avp-demo-qwen2-m-q8_0"));
    let folder = tempdir().unwrap();
    let context = folder.path().join("notes.avp");
    let question = &questions()[0];
    let run = |args: &[&str]| {
        let output = avp(args).args(["--json"]).env("OLLAMA_MODELS", ollama.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let path = context.to_str().unwrap();
    let thought = run(&["think", "--model", "ollama:demo:q8", "--prompt", &question.notes, "-o", path]);
    assert_eq!(thought["model"], "demo:q8");
    let args = ["generate", "--model", "ollama:DEMO:q8", "--prompt", &question.ask, "--context", path];
    let greedy = greedy_args();
    let here = run(&args.into_iter().chain(greedy.iter().map(String::as_str)).collect::<Vec<_>>());
    assert_eq!(here["verification"], "verified");
    let mut server = Server::command("ollama:demo:q8", &[]);
    let server = Server::run(server.env("OLLAMA_MODELS", ollama.path()));
    let there = ask(&server, question, &context);
    assert_eq!((&there["handover"], tokens(&there)), (&"kv".into(), tokens(&here)));
}

#[test]
fn a_model_without_a_fingerprint_takes_contexts_unverified_or_by_demand_only_text() {
    let folder = tempdir().unwrap();
    let mut ollama = Ollama::new();
    ollama.add(
        "demo",
        "latest",
        &changed("avp-demo-qwen2-m-f16", folder.path(), b"avp.weights", b"avp.nothing"),
    );
    let context = folder.path().join("notes.avp");
    let question = &questions()[0];
    think("avp-demo-qwen2-m", &question.notes, &context, &[]);
    let serve = |args: &[&str]| {
        let mut server = Server::command("ollama:demo", args);
        Server::run(server.env("OLLAMA_MODELS", ollama.path()))
    };
    let told = ask(&serve(&[]), question, &context);
    assert_eq!((&told["handover"], &told["verified"]), (&"kv".into(), &false.into()), "{told}");
    let told = ask(&serve(&["--require-verified"]), question, &context);
    assert_eq!((&told["handover"], &told["verified"]), (&"text".into(), &false.into()), "{told}");
}

/// Answers one request as Ollama does, and gives what was asked.
fn ollama_server(answer: &'static str) -> (String, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut part = [0; 1024];
        while !String::from_utf8_lossy(&asked).contains("keep_alive") {
            let count = stream.read(&mut part).unwrap();
            assert!(count > 0);
            asked.extend_from_slice(&part[..count]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    });
    (address, asked)
}

#[test]
fn ollamas_server_is_asked_to_let_go_of_its_copy_and_need_not() {
    let mut ollama = Ollama::new();
    ollama.add("demo", "q8", &gguf("avp-demo-qwen2-s-q8_0"));
    let folder = tempdir().unwrap();
    let out = folder.path().join("out.avp");
    let think = |server: &str| {
        let mut command = crate::common::think("ollama:demo:q8", "Notes", &out);
        command.arg("--ollama-unload").env("OLLAMA_MODELS", ollama.path()).env("OLLAMA_HOST", server);
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && out.exists(), "{stderr}");
        stderr
    };
    let (address, asked) = ollama_server(
        "HTTP/1.1 200 OK\r\ncontent-length: 38\r\n\r\n{\"done\":true,\"done_reason\":\"unload\"}   ",
    );
    assert_eq!(think(&address), "");
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /api/generate ") && asked.contains("\"demo:q8\""), "{asked}");
    let (address, asked) = ollama_server("HTTP/1.1 500 No\r\ncontent-length: 15\r\n\r\n{\"error\":\"busy\"}");
    let told = think(&address);
    assert!(told.contains("WARN") && told.contains("demo:q8") && told.contains("busy"), "{told}");
    asked.join().unwrap();
    // Nobody listens there.
    assert_eq!(think("127.0.0.1:1"), "");
}
