//! No bytes in a context file make this program panic, and none of them pass for another context.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::sync::Arc;

use avp::{
    Backend, BufferPool, Context, GenerateOptions, ModelOptions, Prompt, SamplingOptions, VerificationPolicy,
    generate, load_backend, load_context, read_frame,
};
use avp_wire::EncodeOptions;
use common::random::Random;
use common::workspace;

const MODEL: &str = "avp-demo-qwen2-s";
const FILE: &str = "tests/fixtures/sdk-contexts/avp-demo-qwen2-s-0.avp";
const CASES: usize = 600;

fn backend() -> Arc<dyn Backend> {
    load_backend(workspace("models").join(MODEL).to_str().unwrap(), &ModelOptions::default()).unwrap()
}

/// Cuts, grows or changes `bytes`; half of the time in the head, where every byte means something.
fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.between(1, 3) {
        let end = if random.coin() { bytes.len().min(400) } else { bytes.len() };
        let at = random.below(end.max(1) as u64) as usize;
        let extreme = *random.pick(&[0, 1, 0x7FFF_FFFF, 0x8000_0000, u32::MAX]);
        match random.below(6) {
            0 => bytes.truncate(at),
            1 => {
                let more = random.bytes(9);
                bytes.splice(at..at, more);
            }
            2 if at + 4 <= bytes.len() => bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(extreme)),
            3 => drop(bytes.drain(at..bytes.len().min(at + 5))),
            _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
}

/// Loads damaged copies of `whole`; those that load are written after, which must not panic either.
fn load_damaged(seed: u64, whole: &[u8]) -> Vec<Context> {
    let (mut random, backend, pool) = (Random::new(seed), backend(), BufferPool::new(0));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged.avp");
    let options =
        GenerateOptions { max_tokens: 2, sampling: SamplingOptions::greedy(), ..GenerateOptions::default() };
    let mut loaded = Vec::new();
    for _ in 0..CASES {
        let mut bytes = whole.to_vec();
        damage(&mut random, &mut bytes);
        fs::write(&file, &bytes).unwrap();
        match load_context(&file, backend.as_ref(), VerificationPolicy::Allow, &pool) {
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
            Ok(context) => {
                let go_on = &mut |_: avp::GenerateEvent<'_>| ControlFlow::Continue(());
                // Values out of nowhere may give NaN, which is an error.
                let _ = generate(backend.as_ref(), &Prompt::from("q"), Some(&context), &options, go_on);
                loaded.push(context);
            }
        }
    }
    loaded
}

#[test]
fn a_damaged_context_with_a_checksum_is_refused_or_is_the_same_cache() {
    let whole = fs::read(workspace(FILE)).unwrap();
    let original = read_frame(&workspace(FILE), &BufferPool::new(0)).unwrap();
    let mut same = 0;
    for context in load_damaged(1, &whole) {
        let frame = context.to_frame(&avp::ContextStamp::default(), &BufferPool::new(0)).unwrap();
        assert!(frame.payload == original.payload, "a damaged context passed for a whole one");
        same += 1;
    }
    assert!(same < CASES / 2, "most damage went unnoticed: {same} of {CASES}");
}

#[test]
fn a_damaged_context_without_a_checksum_never_panics() {
    let frame = read_frame(&workspace(FILE), &BufferPool::new(0)).unwrap();
    let options = EncodeOptions { checksum: false, ..EncodeOptions::default() };
    let loaded = load_damaged(2, &frame.encode(&options).unwrap().to_vec());
    assert!(!loaded.is_empty() && loaded.len() < CASES);
}

#[test]
fn a_damaged_compressed_context_never_panics() {
    let frame = read_frame(&workspace(FILE), &BufferPool::new(0)).unwrap();
    let compression = Some(avp_wire::Compression::Fast);
    let options = EncodeOptions { compression, checksum: false, ..EncodeOptions::default() };
    let loaded = load_damaged(3, &frame.encode(&options).unwrap().to_vec());
    assert!(loaded.len() < CASES);
}
