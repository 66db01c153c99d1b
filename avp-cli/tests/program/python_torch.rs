//! Contexts cross between this program and the Python SDK with transformers, both ways, and continue alike.
//!
//! `cargo xtask interop --torch` runs these with the interpreter of an environment that it makes.

use std::path::Path;

use crate::common::{MODELS, Question, json, models, questions, tokens};
use crate::python::Python;
use serde_json::{Value, json};
use tempfile::tempdir;

const STEPS: [usize; 3] = [0, 2, 5];
const MAX_TOKENS: usize = 16;
/// Questions of each model and number of steps.
const EACH: usize = 4;
/// The two engines sum in different orders: greedy tokens are compared where no choice was a near tie.
const LEAST_MARGIN: f64 = 0.01;

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn generate_here(model: &str, file: &Path, ask: &str) -> Value {
    let most = MAX_TOKENS.to_string();
    let args = ["generate", "--model", model, "--prompt", ask, "--context", path(file)];
    json(args.into_iter().chain(["--temperature", "0", "--max-tokens", &most]))
}

/// Compares what both sides wrote; `false` where the SDK's choice was too close.
fn alike(here: &Value, there: &Value, what: &str) -> bool {
    if there["margin"].as_f64().unwrap() < LEAST_MARGIN {
        return false;
    }
    assert_eq!(json!(tokens(here)), there["tokens"], "{what}");
    assert_eq!(here["text"].as_str().unwrap().trim(), there["text"], "{what}");
    true
}

/// Runs `compare` for every model, number of steps and question; most of them must be decided.
fn for_each(mut compare: impl FnMut(&str, usize, &Question, &str) -> bool) {
    let questions = questions();
    for model in MODELS {
        for steps in STEPS {
            let what = format!("{model}, {steps} steps");
            let decided = questions.iter().take(EACH).filter(|q| compare(model, steps, q, &what)).count();
            assert!(
                2 * decided >= EACH,
                "{what}: {decided} of {EACH} questions had a clear choice at every token"
            );
        }
    }
}

#[test]
#[ignore = "needs the Python peer with torch: cargo xtask interop --torch"]
fn a_context_made_here_gives_the_same_greedy_text_in_transformers() {
    let (mut python, folder) = (Python::start("torch_peer.py"), tempdir().unwrap());
    let file = folder.path().join("here.avp");
    let mut tied = Vec::new();
    for model in MODELS {
        tied.push(python.call("model", json!({ "folder": models().join(model) }))["tied"].as_bool().unwrap());
    }
    assert!(tied.contains(&true) && tied.contains(&false), "one demo model should be tied, one untied");

    for_each(|model, steps, Question { notes, ask }, what| {
        let found = python.call("model", json!({ "folder": models().join(model) }));
        let hash = found["model_hash"].as_str().unwrap();
        let count = steps.to_string();
        let args = ["think", "--model", model, "--prompt", notes, "--steps", &count, "--model-hash", hash];
        json(args.into_iter().chain(["-o", path(&file)]));
        let arguments =
            json!({ "folder": models().join(model), "file": file, "prompt": ask, "max_tokens": MAX_TOKENS });
        let there = python.call("generate", arguments);
        assert_eq!(there["num_steps"], steps, "{what}");
        alike(&generate_here(model, &file, ask), &there, what)
    });
}

#[test]
#[ignore = "needs the Python peer with torch: cargo xtask interop --torch"]
fn a_context_made_by_the_sdk_gives_the_same_greedy_text_here() {
    let (mut python, folder) = (Python::start("torch_peer.py"), tempdir().unwrap());
    let file = folder.path().join("there.avp");
    for_each(|model, steps, Question { notes, ask }, what| {
        let arguments = json!({
            "folder": models().join(model), "prompt": notes, "steps": steps,
            "file": file, "ask": ask, "max_tokens": MAX_TOKENS,
        });
        let there = python.call("think", arguments);
        let here = generate_here(model, &file, ask);
        assert_eq!(here["verification"], "unverified", "{what}");
        assert_eq!(here["context_tokens"], there["tokens_of_context"], "{what}");
        alike(&here, &there, what)
    });
}

#[test]
#[ignore = "needs the Python peer with torch: cargo xtask interop --torch"]
fn a_chain_that_starts_in_the_sdk_and_goes_on_here_ends_alike_in_both() {
    let (mut python, folder) = (Python::start("torch_peer.py"), tempdir().unwrap());
    let (first, second, whole) =
        (folder.path().join("1.avp"), folder.path().join("2.avp"), folder.path().join("all.avp"));
    let more = "Notes: Stock: bells two, pens nine.";
    for_each(|model, steps, Question { notes, ask }, what| {
        let thought = |prompt: &str, file: &Path, prior: Option<&Path>| {
            json!({
                "folder": models().join(model), "prompt": prompt, "steps": steps, "prior": prior,
                "file": file, "ask": ask, "max_tokens": MAX_TOKENS,
            })
        };
        python.call("think", thought(notes, &first, None));
        let there = python.call("think", thought(more, &whole, Some(&first)));
        let count = steps.to_string();
        let args =
            ["think", "--model", model, "--prompt", more, "--steps", &count, "--context", path(&first)];
        json(args.into_iter().chain(["-o", path(&second)]));
        alike(&generate_here(model, &second, ask), &there, what)
    });
}

#[test]
#[ignore = "needs the Python peer with torch: cargo xtask interop --torch"]
fn a_context_without_the_receivers_hash_is_refused_by_the_sdk() {
    let (mut python, folder) = (Python::start("torch_peer.py"), tempdir().unwrap());
    let file = folder.path().join("here.avp");
    let Question { notes, ask } = &questions()[0];
    json(["think", "--model", MODELS[0], "--prompt", notes, "--steps", "0", "-o", path(&file)]);
    let arguments =
        json!({ "folder": models().join(MODELS[0]), "file": file, "prompt": ask, "max_tokens": MAX_TOKENS });
    let error = python.ask("generate", arguments).unwrap_err();
    assert!(error.contains("IncompatibleModelsError"), "{error}");
}
