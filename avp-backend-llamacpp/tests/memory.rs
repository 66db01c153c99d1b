//! Memory that comes back. Alone in its program, because it looks at the memory of the whole process.
#![cfg(all(feature = "native", target_os = "linux"))]
#![allow(missing_docs)]

use std::ops::ControlFlow;
use std::path::Path;

use avp_backend::{
    Context, ContextStamp, GenerateEvent, GenerateOptions, Prompt, SamplingOptions, ThinkOptions,
    VerificationPolicy, generate, think,
};
use avp_backend_llamacpp::{LlamaCppBackend, LoadOptions};
use avp_wire::BufferPool;

/// One life of a model: loaded, made to think, forked by two generations after it, and dropped.
fn cycle(path: &Path) {
    let backend = LlamaCppBackend::load(path, &LoadOptions::default()).unwrap();
    let notes = Prompt::User("Anna lives in Rome. Finn lives in Oslo. Bob works as a baker.".into());
    let steps = ThinkOptions { steps: 4, ..Default::default() };
    let context: Context = think(&backend, &notes, None, &steps, &mut |_| ()).unwrap();
    let sampling = SamplingOptions { temperature: 0.0, ..Default::default() };
    let options = GenerateOptions { max_tokens: 12, sampling, ..Default::default() };
    let go_on = &mut |_: GenerateEvent<'_>| ControlFlow::Continue(());
    for question in ["Where does Finn live?", "Where does Anna live?"] {
        generate(&backend, &Prompt::User(question.into()), Some(&context), &options, go_on).unwrap();
    }
    let frame = context.to_frame(&ContextStamp::default(), &BufferPool::new(0)).unwrap();
    let copy = Context::from_frame(&frame, &backend, VerificationPolicy::Allow).unwrap();
    generate(&backend, &Prompt::User("Where does Bob live?".into()), Some(&copy), &options, go_on).unwrap();
}

/// Memory of this process that is there now, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Threads of this process.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn a_hundred_lives_of_a_model_leave_memory_where_it_was() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/gguf/avp-demo-qwen2-m-f16.gguf");
    // What is made once stays: the library's tables, the allocator's arenas.
    (0..20).for_each(|_| cycle(&path));
    let before = (resident(), threads());
    (0..100).for_each(|_| cycle(&path));
    let after = (resident(), threads());
    // A model and its cache are 3 MiB: a hundredth of what would stay if each life left them behind.
    assert!(after.0 < before.0 + (3 << 10), "{before:?} KiB, then {after:?}");
    assert_eq!(after.1, before.1);
}
