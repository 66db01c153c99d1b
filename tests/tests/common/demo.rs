//! The demo models, and the questions that they answer.

use std::ops::ControlFlow;

use avp_backend::{
    Backend, Context, GenerateEvent, GenerateOptions, Prompt, SamplingOptions, ThinkOptions, generate, think,
};
use avp_backend_candle::{CandleBackend, LoadOptions};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::workspace;

pub(crate) const MODELS: [&str; 3] = ["avp-demo-qwen2-s", "avp-demo-qwen2-m", "avp-demo-llama"];
/// Tokens of a distribution that are shipped.
pub(crate) const SHIPPED: usize = 1024;

#[derive(Deserialize)]
pub(crate) struct Question {
    pub(crate) notes: String,
    pub(crate) question: String,
    pub(crate) answer: String,
    pub(crate) kind: String,
}

impl Question {
    /// What the model that knows the notes is asked.
    pub(crate) fn with_notes(&self) -> String {
        format!("{}\n{}", self.notes, self.question)
    }
}

/// The first `count` questions of a file.
pub(crate) fn questions(file: &str, count: usize) -> Vec<Question> {
    let mut asked: Vec<Question> = read(file);
    asked.truncate(count);
    asked
}

/// A file of the demo's questions.
pub(crate) fn read<T: DeserializeOwned>(file: &str) -> T {
    let text = std::fs::read(workspace("models/questions").join(file)).unwrap();
    serde_json::from_slice(&text).unwrap()
}

pub(crate) fn load(name: &str) -> CandleBackend {
    CandleBackend::load(workspace("models").join(name), &LoadOptions::default()).unwrap()
}

/// What a model has read of notes and question, before it says anything.
pub(crate) fn thought(backend: &dyn Backend, question: &Question) -> Context {
    let options = ThinkOptions { steps: 0, ..Default::default() };
    think(backend, &Prompt::User(question.with_notes()), None, &options, &mut |_| ()).unwrap()
}

/// The most probable answer of at most `max_tokens`.
pub(crate) fn answer(
    backend: &dyn Backend,
    prompt: String,
    context: Option<&Context>,
    max_tokens: usize,
) -> String {
    let options = GenerateOptions { max_tokens, sampling: SamplingOptions::greedy(), ..Default::default() };
    let go_on = &mut |_: GenerateEvent<'_>| ControlFlow::Continue(());
    generate(backend, &Prompt::User(prompt), context, &options, go_on).unwrap().text
}
