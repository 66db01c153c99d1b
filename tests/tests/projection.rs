//! Answers that travel between models of different kinds as distributions over the tokens that they share.

#![expect(clippy::print_stdout, reason = "the counts are part of the result, with --nocapture")]

mod common;

use std::collections::{BTreeSet, HashMap};

use avp_backend::{
    Backend, Context, ProjectionOptions, SharedTokens, distributions, embed_distributions, vocabulary_overlap,
};
use avp_wire::{Bytes, Distribution};

use common::demo::{MODELS, Question, SHIPPED, answer, load, questions, read, thought};

/// Questions for each pair, and how many the receiver may get wrong that the source gets right.
const QUESTIONS: usize = 100;
const MOST_LOST: usize = 3;
/// Most tokens of an answer.
const ANSWER: usize = 12;

struct Questions {
    asked: Vec<Question>,
    values: HashMap<String, Vec<String>>,
}

impl Questions {
    fn read() -> Self {
        Self { asked: questions("hints.json", QUESTIONS), values: read("values.json") }
    }

    /// Whether the words of a reply that are values of the question's kind are exactly the answer.
    fn is_correct(&self, question: &Question, reply: &str) -> bool {
        let values = &self.values[&question.kind];
        let words = reply.split(|c: char| !c.is_ascii_alphabetic());
        let named: BTreeSet<&str> = words.filter(|word| values.iter().any(|value| value == word)).collect();
        named.into_iter().eq([question.answer.as_str()])
    }
}

/// What a model would say next after notes and question.
fn hidden(backend: &dyn Backend, question: &Question) -> Vec<f32> {
    thought(backend, question).last_hidden().unwrap().to_vec()
}

#[test]
fn an_answer_travels_between_every_two_models_and_none_comes_without() {
    let questions = Questions::read();
    let backends = MODELS.map(load);
    let options = ProjectionOptions::default();
    for (from, source) in backends.iter().enumerate() {
        let states: Vec<Vec<f32>> = questions.asked.iter().map(|q| hidden(source, q)).collect();
        let own = |q: &&Question| questions.is_correct(q, &answer(source, q.with_notes(), None, ANSWER));
        let own = questions.asked.iter().filter(own).count();
        for (to, target) in backends.iter().enumerate().filter(|(to, _)| *to != from) {
            let shared = SharedTokens::by_string(&source.codec().vocab(), &target.codec().vocab());
            let meant = SharedTokens::by_meaning(source.codec(), target.codec()).unwrap();
            assert!(meant.len() >= shared.len() && shared.len() >= 100);
            let (mut here, mut across, mut without) = (0, 0, 0);
            for (question, state) in questions.asked.iter().zip(&states) {
                let is_correct = |context: Option<&Context>| {
                    questions
                        .is_correct(question, &answer(target, question.question.clone(), context, ANSWER))
                };
                let embedded = vocabulary_overlap(source, target, &shared, state, &options).unwrap();
                here += usize::from(is_correct(Some(&Context::of_embeddings(target, &embedded).unwrap())));
                let shipped = distributions(source, &meant, state, SHIPPED, &options).unwrap();
                let payload = Bytes::from(Distribution::encode_all(&shipped));
                assert!(payload.len() < 8 << 10);
                let shipped = Distribution::decode_all(&payload, 1).unwrap();
                let embedded = embed_distributions(target, &shipped, None).unwrap();
                across += usize::from(is_correct(Some(&Context::of_embeddings(target, &embedded).unwrap())));
                without += usize::from(is_correct(None));
            }
            let (source, target) = (MODELS[from], MODELS[to]);
            println!(
                "{source} -> {target}, {} of {} tokens shared by string, {} by meaning: of {QUESTIONS}, {own} by the source, {here} in process, {across} shipped, {without} without",
                shared.len(),
                backends[from].info().vocab_size,
                meant.len()
            );
            assert!(here + MOST_LOST >= own && across + MOST_LOST >= own, "{source} -> {target}");
            assert!(without * 10 <= QUESTIONS, "{source} -> {target}");
        }
    }
}

#[test]
fn what_is_shipped_whole_is_what_a_process_projects_by_itself() {
    let questions = Questions::read();
    let options = ProjectionOptions::default();
    for (source, target) in [("avp-demo-qwen2-s", "avp-demo-qwen2-m"), ("avp-demo-llama", "avp-demo-qwen2-s")]
    {
        let (source, target) = (load(source), load(target));
        let shared = SharedTokens::by_meaning(source.codec(), target.codec()).unwrap();
        for question in &questions.asked[..20] {
            let state = hidden(&source, question);
            let here = vocabulary_overlap(&source, &target, &shared, &state, &options).unwrap();
            let shipped = distributions(&source, &shared, &state, usize::MAX, &options).unwrap();
            let across = embed_distributions(&target, &shipped, None).unwrap();
            assert!(here.iter().zip(&across).all(|(a, b)| (a - b).abs() < 1e-5), "{}", question.question);
        }
    }
}
