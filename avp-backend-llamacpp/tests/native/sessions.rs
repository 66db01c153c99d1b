//! Several sessions on one model at a time.

use std::ops::ControlFlow;
use std::path::Path;

use avp_backend::{
    Backend, GenerateEvent, GenerateOptions, Prompt, SamplingOptions, ThinkOptions, generate, think,
};
use avp_backend_llamacpp::{KvType, LlamaCppBackend, LoadOptions};

const NOTES: [&str; 4] = [
    "Anna lives in Rome. Finn lives in Oslo.",
    "Bob works as a baker. Anna lives in Paris.",
    "Finn has a red car.",
    "Dora lives in Lima. Bob lives in Bern. Carl lives in Kyiv.",
];

fn session(backend: &dyn Backend, notes: &str) -> Vec<u32> {
    let options = ThinkOptions { steps: 2, ..Default::default() };
    let context = think(backend, &Prompt::User(notes.into()), None, &options, &mut |_| ()).unwrap();
    let sampling = SamplingOptions { temperature: 0.0, ..Default::default() };
    let options = GenerateOptions { max_tokens: 16, sampling, ..Default::default() };
    let go_on = &mut |_: GenerateEvent<'_>| ControlFlow::Continue(());
    let question = Prompt::User("Where does Bob live?".into());
    generate(backend, &question, Some(&context), &options, go_on).unwrap().tokens
}

/// A model, and what one session after the other computes on it.
fn backend(threads: Option<usize>) -> (LlamaCppBackend, Vec<Vec<u32>>) {
    let mut options = LoadOptions::default();
    options.kv_type = KvType::F16;
    options.threads = threads;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/gguf/avp-demo-qwen2-m-f16.gguf");
    let backend = LlamaCppBackend::load(path, &options).unwrap();
    let alone = NOTES.iter().map(|notes| session(&backend, notes)).collect();
    (backend, alone)
}

#[test]
fn two_sessions_share_the_threads_of_a_model() {
    let (backend, alone) = backend(Some(2));
    std::thread::scope(|scope| {
        for (notes, alone) in NOTES.iter().zip(&alone).take(2) {
            let backend = &backend;
            scope.spawn(move || assert_eq!(&session(backend, notes), alone));
        }
    });
}

#[test]
fn four_threads_with_a_session_each_compute_what_one_alone_does() {
    let (backend, alone) = backend(None);
    for _ in 0..5 {
        let backend = &backend;
        let together: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                NOTES.iter().map(|notes| scope.spawn(move || session(backend, notes))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(together, alone);
    }
}
