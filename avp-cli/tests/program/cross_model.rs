//! One model's answer in another model, as a user sees it: hidden states in files, `ask` that finds out by itself what to send, and
//! the demo.

use std::path::{Path, PathBuf};

use crate::common::{MODELS, Server, avp, json, models, names, refused};
use serde_json::Value;

/// A question that its reader answers in one word, and what it is asked about.
struct OneWord {
    together: String,
    ask: String,
    answer: String,
}

fn one_word(at: usize) -> OneWord {
    let text = std::fs::read(models().join("questions/hints.json")).unwrap();
    let list: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let field = |key: &str| list[at][key].as_str().unwrap().to_owned();
    let (notes, ask) = (field("notes"), field("question"));
    OneWord { together: format!("{notes}\n{ask}"), ask, answer: field("answer") }
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

/// `think --output hidden` into a file of `folder`.
fn thought(folder: &Path, model: &str, prompt: &str, more: &[&str]) -> (PathBuf, Value) {
    let file = folder.join("hidden.avp");
    let args = ["think", "--model", model, "--prompt", prompt, "--output", "hidden", "-o", path(&file)];
    let made = json(args.iter().chain(more));
    (file, made)
}

#[test]
fn hidden_states_in_a_file_serve_the_same_model_and_others() {
    let folder = tempfile::tempdir().unwrap();
    let question = one_word(3);
    for source in MODELS {
        let (file, made) = thought(folder.path(), source, &question.together, &["--steps", "0"]);
        assert_eq!((&made["holds"], &made["positions"]), (&"hidden".into(), &1.into()));
        assert!(std::fs::metadata(&file).unwrap().len() < 4 << 10);
        let found = json(["inspect", path(&file)]);
        assert_eq!(found["payload_type"], "HiddenState");
        assert_eq!(found["tensor_shape"][0], 1);
        assert!(found["extra"]["avp.ending"].is_string() && found["extra"]["avp.tokens"].is_string());
        for target in MODELS {
            let mut args = vec!["generate", "--model", target, "--prompt", &question.ask];
            args.extend(["--context", path(&file), "--temperature", "0", "--max-tokens", "8"]);
            if target != source {
                args.extend(["--source", source]);
            }
            let told = json(args);
            assert_eq!(told["text"], question.answer.as_str(), "{source} -> {target}");
            assert_eq!(told["context_tokens"], 1);
        }
    }
}

#[test]
fn positions_of_the_prompt_and_latent_steps_are_kept_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let question = one_word(1);
    let more = ["--steps", "3", "--positions", "4"];
    let (file, made) = thought(folder.path(), MODELS[1], &question.together, &more);
    assert_eq!((&made["positions"], &made["latent_steps"]), (&7.into(), &3.into()));
    assert_eq!(json(["inspect", path(&file)])["tensor_shape"], serde_json::json!([7, 128]));
    // Another thought goes on from them.
    let next = folder.path().join("next.avp");
    let args =
        ["think", "--model", MODELS[1], "--prompt", "And?", "--context", path(&file), "-o", path(&next)];
    assert_eq!(json(args.iter().chain(&["--steps", "0"]))["holds"], "kv");
}

// spec: exchange 4.1
#[test]
fn ask_finds_out_what_the_other_agent_can_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let question = one_word(2);
    let (hidden, _) = thought(folder.path(), MODELS[1], &question.together, &["--steps", "0"]);
    let same = Server::start(MODELS[1], &[]);
    let other = Server::start(MODELS[2], &[]);
    let ask = |server: &Server, more: &[&str]| {
        let args = ["ask", "--to", &server.url, "--model", MODELS[1], "--prompt", &question.ask];
        json(args.iter().chain(&["--temperature", "0", "--max-tokens", "8"]).chain(more))
    };
    let think = ["--think", question.together.as_str()];
    for (server, more, handover) in [
        (&same, &think[..], "kv"),
        (&other, &think[..], "distribution"),
        (&other, &["--context", path(&hidden)][..], "distribution"),
        (&same, &["--context", path(&hidden)][..], "distribution"),
    ] {
        let answer = ask(server, more);
        assert_eq!(
            (&answer["handover"], &answer["text"]),
            (&handover.into(), &question.answer.as_str().into())
        );
        assert!(answer["why"].is_null(), "{answer}");
    }
    assert_eq!(ask(&other, &think)["resolution"], "vocab_overlap");
    // A sentence is more than one position can say: the gate has text go, which is answered as well.
    let sentence = question.together.replace("Answer in one word. ", "");
    let asked = question.ask.replace("Answer in one word. ", "");
    let args = ["ask", "--to", &other.url, "--model", MODELS[1], "--prompt", &asked, "--think", &sentence];
    let answer = json(args.iter().chain(&["--temperature", "0"]));
    assert_eq!(answer["handover"], "text");
    assert!(answer["text"].as_str().unwrap().contains(&question.answer), "{answer}");
    assert!(answer["why"].as_str().unwrap().contains("ends its answer"), "{answer}");
    let open = json(args.iter().chain(&["--temperature", "0", "--gate", "advise"]));
    assert_eq!(open["handover"], "distribution");
    assert!(open["why"].as_str().unwrap().contains("ends its answer"), "{open}");
    assert!(json(args.iter().chain(&["--temperature", "0", "--gate", "off"]))["why"].is_null());
}

#[test]
fn the_demo_carries_one_answer_between_models_without_a_common_tokenizer() {
    let demo = json(["demo", "--cross-model", "--questions", "6", "--in-process"]);
    assert_eq!(demo["resolution"], "vocab_overlap");
    assert_eq!(demo["models"], serde_json::json!(["avp-demo-qwen2-m", "avp-demo-llama"]));
    assert_eq!((&demo["identical"], &demo["alone"]["correct"]), (&6.into(), &0.into()));
    for way in ["direct", "latent", "gated", "in_process"] {
        assert_eq!(demo[way]["correct"], 6, "{way}: {demo}");
    }
    assert_eq!(demo["gated"]["as_latent"], 6);
    let output = avp(["demo", "--cross-model", "--questions", "2"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty());
    for part in ["alone", "direct", "text", "latent", "gated", "95 % interval", "avp-demo-llama"] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn sentences_go_as_text_through_the_gate() {
    let demo = json(["demo", "--cross-model", "--questions", "4", "--set", "sentences", "--to", MODELS[0]]);
    assert_eq!((&demo["gated"]["as_latent"], &demo["gated"]["correct"]), (&0.into(), &4.into()));
    assert!(demo["questions"][0]["gated"]["why"].as_str().unwrap().contains("gate"));
}

#[cfg(feature = "llamacpp")]
#[test]
fn answers_travel_between_models_on_both_engines() {
    for pair in ["llamacpp,llamacpp", "candle,llamacpp", "llamacpp,candle"] {
        let args = ["demo", "--cross-model", "--questions", "3", "--in-process", "--pair", pair];
        let demo = json(args);
        assert_eq!(
            (&demo["gated"]["correct"], &demo["gated"]["as_latent"]),
            (&3.into(), &3.into()),
            "{pair}"
        );
        assert_eq!(demo["identical"], 3, "{pair}");
    }
}

#[test]
fn what_does_not_fit_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let (hidden, _) = thought(folder.path(), MODELS[0], "Notes", &["--steps", "0"]);
    let kv = folder.path().join("kv.avp");
    json(["think", "--model", MODELS[0], "--prompt", "Notes", "--steps", "0", "-o", path(&kv)]);
    let generate = |model: &str, file: &Path, more: &[&str]| {
        let args = ["generate", "--model", model, "--prompt", "q", "--context", path(file)];
        refused(&mut avp(args.iter().chain(more)))
    };
    names(&generate(MODELS[2], &hidden, &[]), &["another model"]);
    names(&generate(MODELS[2], &hidden, &["--source", MODELS[1]]), &["another model"]);
    names(&generate(MODELS[2], &kv, &["--source", MODELS[0]]), &["KV cache", "--output hidden"]);
    let usage = |args: &[&str]| {
        let output = avp(args).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let lone = ["generate", "--model", MODELS[0], "--prompt", "q", "--source", MODELS[1]];
    names(&usage(&lone), &["--context"]);
    let server = Server::start(MODELS[2], &[]);
    let ask = |more: &[&str]| {
        let args = ["ask", "--to", &server.url, "--prompt", "q"];
        refused(&mut avp(args.iter().chain(more)))
    };
    names(&ask(&["--context", path(&hidden)]), &["hidden states", "--model"]);
    let asked = ["ask", "--to", &server.url, "--prompt", "q"];
    names(&usage(&[&asked[..], &["--think", "notes"]].concat()), &["--model"]);
    names(&usage(&[&asked[..], &["--gate", "perhaps"]].concat()), &["off, advise or enforce"]);
    let cut = std::fs::read(&hidden).unwrap();
    std::fs::write(&hidden, &cut[..cut.len() - 3]).unwrap();
    names(&ask(&["--context", path(&hidden), "--model", MODELS[0]]), &["no valid context file"]);
}
