//! Contexts that the Python SDK made for the demo models continue here with the SDK's own tokens.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use avp::{
    Backend, BufferPool, Context, ContextStamp, Frame, GenerateOptions, KvDtype, ModelOptions, Prompt,
    SamplingOptions, ThinkOptions, Verification, VerificationPolicy, generate, load_backend, load_context,
    read_frame, think,
};
use common::workspace;
use serde::Deserialize;
use sha2::{Digest, Sha256};

const FIXTURES: &str = "tests/fixtures/sdk-contexts";
/// Largest difference between the engines' caches, of the largest value. They sum in different orders, and latent
/// steps of untied models go through a linear solve, in single precision in the SDK.
const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Index {
    weights_sha256: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    steps: usize,
    file: String,
    notes: String,
    ask: String,
    max_tokens: usize,
    context_tokens: usize,
    tokens: Vec<u32>,
    text: String,
}

impl Case {
    fn name(&self) -> String {
        format!("{}, {} steps", self.model, self.steps)
    }

    fn file(&self) -> std::path::PathBuf {
        workspace(FIXTURES).join(&self.file)
    }

    fn backend(&self) -> Arc<dyn Backend> {
        let mut options = ModelOptions::default();
        options.dtype = Some(KvDtype::F32);
        load_backend(workspace("models").join(&self.model).to_str().unwrap(), &options).unwrap()
    }
}

fn cases() -> Vec<Case> {
    let index: Index =
        serde_json::from_slice(&fs::read(workspace(FIXTURES).join("index.json")).unwrap()).unwrap();
    for (model, expected) in &index.weights_sha256 {
        let weights = fs::read(workspace("models").join(model).join("model.safetensors")).unwrap();
        assert_eq!(
            hex::encode(Sha256::digest(weights)),
            *expected,
            "{FIXTURES} were made with other weights of {model}: make them again with `cargo xtask fixtures` \
             (python tests/python/make_contexts.py)"
        );
    }
    assert!(index.cases.iter().any(|case| case.steps == 0) && index.cases.iter().any(|case| case.steps > 0));
    index.cases
}

fn pool() -> BufferPool {
    BufferPool::new(0)
}

/// A context of the SDK, taken in; it has no weights fingerprint, so it counts as unverified.
fn imported(file: &Path, backend: &dyn Backend) -> Context {
    load_context(file, backend, VerificationPolicy::Allow, &pool()).unwrap()
}

#[test]
fn a_context_of_the_sdk_continues_with_the_tokens_of_the_sdk() {
    for case in cases() {
        let backend = case.backend();
        let context = imported(&case.file(), backend.as_ref());
        assert_eq!(
            (context.len(), context.latent_steps()),
            (case.context_tokens, case.steps),
            "{}",
            case.name()
        );
        assert_eq!(context.verification(), Verification::Unverified, "{}", case.name());
        let options = GenerateOptions {
            max_tokens: case.max_tokens,
            sampling: SamplingOptions::greedy(),
            ..GenerateOptions::default()
        };
        let prompt = Prompt::User(case.ask.clone());
        let written =
            generate(backend.as_ref(), &prompt, Some(&context), &options, &mut |_| ControlFlow::Continue(()))
                .unwrap();
        assert_eq!(written.tokens, case.tokens, "{}", case.name());
        assert_eq!(written.text.trim(), case.text, "{}", case.name());
    }
}

// spec: kv 1.4
#[test]
fn thinking_here_computes_the_cache_that_the_sdk_computed() {
    for case in cases() {
        let backend = case.backend();
        let options = ThinkOptions { steps: case.steps, ..Default::default() };
        let prompt = Prompt::User(case.notes.clone());
        let context = think(backend.as_ref(), &prompt, None, &options, &mut |_| ()).unwrap();
        let mine = context.to_frame(&ContextStamp::default(), &pool()).unwrap();
        let theirs = read_frame(&case.file(), &pool()).unwrap();
        let (mine, theirs) = (values(&mine), values(&theirs));
        assert_eq!(mine.len(), theirs.len(), "{}", case.name());
        let largest = theirs.iter().map(|x| x.abs()).fold(0.0, f32::max);
        let worst = mine.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= TOLERANCE * largest, "{}: a value is off by {worst} of {largest}", case.name());
    }
}

#[test]
fn a_policy_that_requires_verified_contexts_takes_none_of_the_sdk() {
    for case in cases() {
        let backend = case.backend();
        let error =
            load_context(&case.file(), backend.as_ref(), VerificationPolicy::Require, &pool()).unwrap_err();
        assert!(error.to_string().contains("avp.weights"), "{error}");
    }
}

fn values(frame: &Frame) -> Vec<f32> {
    let kv = frame.kv().unwrap();
    assert_eq!(kv.header().dtype, KvDtype::F32);
    kv.planes().chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
}
