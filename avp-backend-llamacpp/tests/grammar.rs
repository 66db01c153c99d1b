//! Text that obeys a grammar, written by the demo models.
#![cfg(feature = "native")]
#![allow(missing_docs)]

use std::ops::ControlFlow;
use std::path::PathBuf;

use avp_backend::{
    GenerateError, GenerateOptions, Generation, Grammar, GrammarError, Prompt, SamplingOptions, StopReason,
    generate,
};
use avp_backend_llamacpp::{LlamaCppBackend, LoadOptions};

const MODELS: [&str; 3] = ["avp-demo-llama-f16", "avp-demo-qwen2-s-f16", "avp-demo-qwen2-m-q8_0"];
const JSON: &str = include_str!("../../avp-backend/tests/grammars/json.gbnf");

fn load(name: &str) -> LlamaCppBackend {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/gguf");
    let mut options = LoadOptions::default();
    // Threads of a pass wait for each other in a loop, which on a busy machine takes longer than the pass.
    options.threads = Some(1);
    LlamaCppBackend::load(folder.join(format!("{name}.gguf")), &options).unwrap()
}

fn options(grammar: Option<Grammar>, temperature: f32, seed: u64) -> GenerateOptions {
    let sampling = SamplingOptions { temperature, seed, ..SamplingOptions::default() };
    GenerateOptions { grammar, sampling, max_tokens: 120, ..Default::default() }
}

fn grammar(text: &str) -> Option<Grammar> {
    Some(text.parse().unwrap())
}

fn write(backend: &LlamaCppBackend, options: &GenerateOptions) -> Result<Generation, GenerateError> {
    let prompt = Prompt::from("Notes: Homes: Finn Madrid, Dora Porto. Where does Finn live?");
    generate(backend, &prompt, None, options, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_choice_is_written_whole_and_then_the_generation_ends() {
    for name in MODELS {
        let backend = load(name);
        for (temperature, seed) in [(0.0, 0), (1.0, 1), (1.5, 2), (1.5, 3)] {
            // Twice: nothing of the first is left in the second.
            for _ in 0..2 {
                let choice = grammar(r#"root ::= "yes" | "no""#);
                let written = write(&backend, &options(choice, temperature, seed)).unwrap();
                assert!(["yes", "no"].contains(&written.text.as_str()), "{name}: {}", written.text);
                assert!(matches!(written.stop, StopReason::Token(_) | StopReason::Grammar));
            }
        }
    }
}

#[test]
fn a_grammar_of_json_yields_json_unless_it_is_cut() {
    let (mut whole, mut cut) = (0, 0);
    for name in MODELS {
        let backend = load(name);
        for seed in 0..8 {
            let written =
                write(&backend, &options(grammar(JSON), if seed == 0 { 0.0 } else { 1.2 }, seed)).unwrap();
            let is_json = serde_json::from_str::<serde_json::Value>(&written.text);
            match written.stop {
                StopReason::MaxTokens => {
                    cut += 1;
                    let eof = is_json.is_ok() || is_json.unwrap_err().is_eof();
                    assert!(eof || written.text.ends_with('\u{FFFD}'), "{name}: {}", written.text);
                }
                _ => {
                    whole += 1;
                    assert!(is_json.is_ok(), "{name}: {}", written.text);
                }
            }
        }
    }
    assert!(whole + cut == 24 && whole > 0, "{whole} whole, {cut} cut");
}

#[test]
fn the_answer_of_a_grammar_that_allows_it_is_the_answer_without_one() {
    for name in MODELS {
        let backend = load(name);
        let greedy = |grammar| write(&backend, &options(grammar, 0.0, 0)).unwrap();
        let (free, any) = (greedy(None), greedy(grammar("root ::= .*")));
        assert_eq!((&any.text, any.stop), (&free.text, free.stop), "{name}");
        let written = greedy(grammar(r#"root ::= "Home: Dora " [A-Z] [a-z]+ ".""#));
        assert!(written.text.starts_with("Home: Dora ") && written.text.ends_with('.'), "{}", written.text);
    }
}

/// Most of these end llama.cpp's own reader or sampler, or have it never come back.
#[test]
fn hostile_grammars_end_in_an_error_or_in_text_and_never_in_the_end_of_the_process() {
    let backend = load(MODELS[1]);
    let doubling: String = (0..40).map(|i| format!("r{i} ::= r{0} \"x\" | r{0} \"y\"\n", i + 1)).collect();
    let chain: String = (0..8000).map(|i| format!("r{i} ::= r{}\n", i + 1)).collect();
    for grammar in [
        "root ::= ".to_owned() + &"(".repeat(200_000),
        format!("root ::= r0\n{doubling}r40 ::= \"z\""),
        format!("root ::= r0\n{chain}r8000 ::= \"z\""),
        "root ::= a root | \"x\"\na ::= b b\nb ::= ".to_owned(),
        "root ::= \"a\"{5,2}".to_owned(),
        "root ::= \"a\"{18446744073709551616}".to_owned(),
        "root ::= <[99999999999999999999999]>".to_owned(),
        "root ::= [".to_owned() + &"a-z".repeat(80_000) + "]",
        "root ::= (.? .? .?){0,600}".to_owned(),
        "root ::= . root [a-m] | . root [h-z] | \"d\"".to_owned(),
        "\u{FEFF}root ::= \"a\"".to_owned(),
    ] {
        let start: String = grammar.chars().take(60).collect();
        let Ok(grammar) = grammar.parse::<Grammar>() else { continue };
        for temperature in [0.0, 1.0] {
            let options = options(Some(grammar.clone()), temperature, 1);
            match write(&backend, &GenerateOptions { max_tokens: 20, ..options }) {
                Ok(written) => assert!(written.tokens.len() <= 20, "{start}"),
                Err(GenerateError::Grammar(GrammarError::TooAmbiguous) | GenerateError::NoToken { .. }) => {}
                Err(other) => panic!("{start}: {other}"),
            }
        }
    }
}
