//! Generation under a grammar, on a model small enough to follow by hand.

use std::ops::ControlFlow;
use std::sync::Arc;

use avp_backend::testing::{MatrixBackend, MatrixTables};
use avp_backend::{
    Backend, GenerateError, GenerateOptions, Generation, Grammar, GrammarError, Prompt, SamplingOptions,
    StopReason, generate,
};
use proptest::prelude::*;

const DIM: usize = 8;
const STOP: u32 = 0;

/// 256 byte tokens of which those named in `likely` are written, the later the likelier, whatever comes in.
fn model(likely: &[u8]) -> MatrixBackend {
    let mut output = vec![0.0; 256 * DIM];
    for (rank, byte) in (1_u8..).zip(likely) {
        output[usize::from(*byte) * DIM..][..DIM].fill(f32::from(rank));
    }
    let tables = MatrixTables { hidden_dim: DIM, input: vec![0.1; 256 * DIM], output: Some(output) };
    MatrixBackend::new("bytes", tables, 512)
}

/// Greedy, under a grammar.
fn under(grammar: &str) -> GenerateOptions {
    GenerateOptions {
        max_tokens: 12,
        sampling: SamplingOptions::greedy(),
        grammar: Some(grammar.parse().unwrap_or_else(|e| panic!("{grammar}: {e}"))),
        ..Default::default()
    }
}

fn run(backend: &MatrixBackend, options: &GenerateOptions) -> Result<Generation, GenerateError> {
    let prompt = Prompt::Raw("x".to_owned());
    generate(backend, &prompt, None, options, &mut |_| ControlFlow::Continue(()))
}

/// `a`s and `b`s in turns, four at most and two at least.
const TURNS: &str = r#"root ::= "ab" ("a" "b"?)?"#;

#[test]
fn the_likeliest_allowed_token_is_written_and_the_end_comes_where_it_may() {
    // A stop token is the likeliest of all, and not allowed at once.
    let backend = model(&[b'b', b'a', b'z', 0]);
    let written = run(&backend, &under(TURNS)).unwrap();
    assert_eq!((written.text.as_str(), written.stop), ("ab", StopReason::Token(STOP)));
    // Where it is less likely than what may go on, the text goes on until nothing else is possible.
    let backend = model(&[0, b'b', b'a', b'z']);
    let written = run(&backend, &under(TURNS)).unwrap();
    assert_eq!((written.text.as_str(), written.stop), ("abab", StopReason::Token(STOP)));
    assert_eq!(written.tokens, [97, 98, 97, 98]);
}

#[test]
fn stop_tokens_of_the_caller_come_where_the_text_may_end_alone() {
    let backend = model(b"ab");
    let options = GenerateOptions { stop_tokens: vec![u32::from(b'b')], ..under(TURNS) };
    // The grammar asks for a `b`, which ends the text, and it may not end yet.
    assert!(matches!(run(&backend, &options), Err(GenerateError::NoToken { token: 1 })));
    let options = GenerateOptions { stop_tokens: vec![u32::from(b'z')], ..under(TURNS) };
    let written = run(&model(b"abz"), &options).unwrap();
    assert_eq!((written.text.as_str(), written.stop), ("ab", StopReason::Token(u32::from(b'z'))));
}

#[test]
fn without_a_stop_token_the_generation_ends_with_the_grammar() {
    let tables = MatrixTables { hidden_dim: DIM, input: vec![0.1; 256 * DIM], output: None };
    let backend = MatrixBackend::new("endless", tables, 512).without_stop_tokens();
    for sampling in [SamplingOptions::greedy(), SamplingOptions::default()] {
        let written = run(&backend, &GenerateOptions { sampling, ..under(TURNS) }).unwrap();
        assert_eq!((written.text.as_str(), written.stop), ("abab", StopReason::Grammar));
        assert_eq!(written.stop.as_str(), "grammar");
    }
}

#[test]
fn other_reasons_to_stop_cut_the_text() {
    let backend = model(b"ab");
    let short = run(&backend, &GenerateOptions { max_tokens: 1, ..under(TURNS) }).unwrap();
    assert_eq!((short.text.as_str(), short.stop), ("a", StopReason::MaxTokens));
    let stopped =
        run(&backend, &GenerateOptions { stop_strings: vec!["ba".to_owned()], ..under(TURNS) }).unwrap();
    assert_eq!((stopped.text.as_str(), stopped.stop), ("a", StopReason::Text));
}

#[test]
fn random_choices_are_those_among_the_allowed_tokens() {
    // With `z` all of the mass, a cut before the mask would leave nothing.
    let likely: Vec<u8> = [&b"0123456789"[..], &[b'z'; 60]].concat();
    let backend = model(&likely);
    let text = |seed, top_p, top_k, options: &GenerateOptions| {
        let sampling = SamplingOptions { temperature: 20.0, top_p, top_k, seed };
        run(&backend, &GenerateOptions { sampling, ..options.clone() }).unwrap().text
    };
    let digits = under("root ::= [2-6]{12}");
    for (top_p, top_k, kept) in [(1.0, 0, "23456"), (1.0, 2, "56"), (0.3, 0, "56"), (1e-6, 0, "6")] {
        let texts: String = (0..40).map(|seed| text(seed, top_p, top_k, &digits)).collect();
        assert_eq!(texts.len(), 40 * 12);
        assert!(texts.chars().all(|c| kept.contains(c)), "{top_p} {top_k}: {texts}");
        assert!(kept.chars().all(|c| texts.contains(c)), "{top_p} {top_k}: {texts}");
        assert_eq!(text(7, top_p, top_k, &digits), text(7, top_p, top_k, &digits));
    }
}

#[test]
fn greedy_tokens_are_those_that_masking_everything_first_would_give() {
    let backend = model(b"kjihgfedcba");
    let grammar = "root ::= ([b-d] [f-h])* \"k\" | \"x\"{20}";
    let options = GenerateOptions { max_tokens: 7, ..under(grammar) };
    assert_eq!(run(&backend, &options).unwrap().text, "bfbfbfb");
    // The likeliest is refused at the first place and allowed at the second.
    let written = run(&backend, &under("root ::= \"k\" [a-z] \"j\"")).unwrap();
    assert_eq!((written.text.as_str(), written.stop), ("kaj", StopReason::Token(STOP)));
}

#[test]
fn a_grammar_that_begins_in_too_many_ways_is_told_before_anything_is_computed() {
    let doubling: String = (0..40).map(|i| format!("r{i} ::= r{0} \"x\" | r{0} \"y\"\n", i + 1)).collect();
    let options = under(&format!("root ::= r0\n{doubling}r40 ::= \"z\""));
    let nothing = &mut |_: avp_backend::GenerateEvent<'_>| panic!("something was computed");
    let error = generate(&model(b"a"), &Prompt::Raw("x".to_owned()), None, &options, nothing).unwrap_err();
    assert!(matches!(error, GenerateError::Grammar(GrammarError::TooAmbiguous)), "{error}");
}

#[test]
fn a_grammar_that_the_model_cannot_write_ends_in_an_error_that_says_where() {
    let backend = model(b"a");
    // Token 0, which is the zero byte's, writes nothing here.
    let error = run(&backend, &under("root ::= \"aa\\x00\"")).unwrap_err();
    assert!(matches!(error, GenerateError::NoToken { token: 2 }), "{error}");
}

const PARTS: &[&str] = &[
    "\"a\"", "\"ab\"", "[a-c]", "[^a]", ".", "(", ")", "|", "*", "+", "?", "{2}", "{0,3}", "{1,}", " ", "\n",
    "root", "x", "\nx ::= ", "\"é\"", "[é-ü]", "\"\"",
];

proptest! {
    #[test]
    fn what_is_written_under_any_grammar_obeys_it(
        parts in prop::collection::vec(prop::sample::select(PARTS), 0..16), seed in 0..5_u64,
    ) {
        let text = format!("root ::= {}", parts.concat());
        let Ok(grammar) = text.parse::<Grammar>() else { return Ok(()) };
        let backend = model(b"xcba");
        let sampling = SamplingOptions { temperature: seed as f32, seed, ..Default::default() };
        let options = GenerateOptions { max_tokens: 8, sampling, grammar: Some(grammar.clone()), ..Default::default() };
        match run(&backend, &options) {
            Ok(written) => {
                let pieces = backend.codec().pieces().unwrap();
                let mut check = grammar.constraint(Arc::clone(&pieces)).unwrap();
                for token in &written.tokens {
                    prop_assert!(check.accept(*token).is_ok(), "{}: {}", &text, &written.text);
                }
                prop_assert!(check.may_end() || written.stop == StopReason::MaxTokens, "{}", &text);
            }
            Err(GenerateError::Grammar(GrammarError::TooAmbiguous) | GenerateError::NoToken { .. }) => {}
            Err(other) => prop_assert!(false, "{}: {}", &text, other),
        }
    }
}
