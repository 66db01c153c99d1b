//! 200 damaged GGUF files, each loaded as `avp` loads what it has not seen before: tried by another process first. Each is an
//! error or a model that works, never the end of this process.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::gguf::gguf;
use avp::gguf::GgufFile;
use avp::{Backend, ModelOptions, Probe, load_backend};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const CASES: usize = 200;
/// Hundreds of times what one takes on an idle machine.
const LONGEST: Duration = Duration::from_secs(100);

/// A file to damage, and where its parts are.
struct Whole {
    bytes: Vec<u8>,
    /// Bytes before the tensors' data.
    head: usize,
    /// Where the bytes after each name stand: for a key its type and value, for a tensor its dimensions.
    keys: Vec<usize>,
    tensors: Vec<usize>,
}

impl Whole {
    fn read(name: &str) -> Self {
        let bytes = fs::read(gguf(name)).unwrap();
        let file = GgufFile::open(gguf(name)).unwrap();
        let head = file.tensors()[0].offset as usize;
        let after = |name: &str| {
            let named = [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
            bytes[..head].windows(named.len()).position(|window| window == named).unwrap() + named.len()
        };
        let mut keys: Vec<usize> = file.keys().map(after).collect();
        // Of a map: in no order that would be the same twice.
        keys.sort_unstable();
        let tensors = file.tensors().iter().map(|tensor| after(&tensor.name)).collect();
        Self { head, keys, tensors, bytes }
    }

    /// Damage of one of ten kinds.
    fn damaged(&self, kind: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut bad = self.bytes.clone();
        let (head, len) = (self.head, bad.len());
        let key = self.keys[rng.random_range(0..self.keys.len())];
        let tensor = self.tensors[rng.random_range(0..self.tensors.len())];
        let dims = u32::from_le_bytes(bad[tensor..tensor + 4].try_into().unwrap()) as usize;
        let u32_at =
            |bad: &mut Vec<u8>, at: usize, value: u32| bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        match kind {
            // Bits of the head.
            0 => {
                for _ in 0..rng.random_range(1..4) {
                    bad[rng.random_range(0..head)] ^= 1 << rng.random_range(0..8);
                }
            }
            // A truncation.
            1 => bad.truncate(rng.random_range(0..len)),
            // A huge count or length anywhere in the head.
            2 => {
                let at = rng.random_range(8..head - 8);
                let huge = u64::MAX >> rng.random_range(0..40);
                bad[at..at + 8].copy_from_slice(&huge.to_le_bytes());
            }
            // Any bytes in the head.
            3 => {
                let from = rng.random_range(0..head - 64);
                let until = from + rng.random_range(1..64);
                rng.fill(&mut bad[from..until]);
            }
            // Any bytes as weights: numbers that are none, scales that are.
            4 => {
                let from = rng.random_range(head..len);
                let until = rng.random_range(from..len);
                rng.fill(&mut bad[from..until]);
            }
            // Another type of a value.
            5 => u32_at(&mut bad, key, rng.random_range(0..14)),
            // Another value: a number of layers, of heads, an id, the length of a text.
            6 => {
                let value = [0, 1, 2, 3, 7, 64, 96, 1 << 20, u32::MAX][rng.random_range(0..9)];
                u32_at(&mut bad, key + 4, value);
            }
            // Another name of a key, or of a tensor.
            7 => bad[if rng.random() { key } else { tensor } - 1] ^= 1,
            // Another shape.
            8 => {
                let at = tensor + 4 + 8 * rng.random_range(0..dims);
                let dim = u64::from_le_bytes(bad[at..at + 8].try_into().unwrap());
                let other = [dim / 2, dim + 32, dim * 2, dim - 32, 1][rng.random_range(0..5)];
                bad[at..at + 8].copy_from_slice(&other.to_le_bytes());
                if rng.random() {
                    // As many elements, where it can be.
                    let (a, b) = (tensor + 4, tensor + 4 + 8 * (dims - 1));
                    let (first, last) = (self.bytes[a..a + 8].to_vec(), self.bytes[b..b + 8].to_vec());
                    bad[a..a + 8].copy_from_slice(&last);
                    bad[b..b + 8].copy_from_slice(&first);
                }
            }
            // Another type of a tensor.
            _ => u32_at(&mut bad, tensor + 4 + 8 * dims, rng.random_range(0..44)),
        }
        bad
    }
}

/// Thinks a little, and reads and writes text.
fn works(backend: &dyn Backend) {
    let ids = backend.codec().encode("Where does Finn live?\n", true).unwrap();
    backend.codec().decode(&ids, false).unwrap();
    let mut sequence = backend.new_sequence(16).unwrap();
    let hidden = sequence.forward(avp_backend::Input::Tokens(&[0, 1])).unwrap();
    backend.logits(&hidden).unwrap();
}

#[test]
#[allow(clippy::print_stdout, reason = "the counts are part of the result")]
fn damaged_files_are_errors_or_models_that_work_and_never_the_end_of_who_loads_them() {
    let folder = tempfile::tempdir().unwrap();
    let wholes = ["avp-demo-qwen2-s-q8_0", "avp-demo-qwen2-s-f16"].map(Whole::read);
    let mut options = ModelOptions::default();
    options.threads = Some(1);
    options.probe = Some(Probe::new(env!("CARGO_BIN_EXE_avp"), ["probe-gguf"]));
    let load = |path: &Path| load_backend(path.to_str().unwrap(), &options);
    works(load(&gguf("avp-demo-qwen2-s-q8_0")).unwrap().as_ref());

    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (mut judged, mut refused, mut ended, mut worked) = (0, 0, Vec::new(), 0);
    for case in 0..CASES {
        let bad = wholes[case % 2].damaged(case / 2 % 10, &mut rng);
        let path = folder.path().join(format!("case-{case}.gguf"));
        fs::write(&path, &bad).unwrap();
        let started = Instant::now();
        let is_judged = GgufFile::open(&path)
            .and_then(|file| file.meta().and_then(|meta| file.check_tensors(&meta)))
            .is_err();
        match load(&path) {
            Ok(backend) => {
                works(backend.as_ref());
                worked += 1;
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("case-") && !text.contains('\n'), "{text}");
                match () {
                    () if text.contains("ends llama.cpp") => ended.push(text),
                    () if is_judged => judged += 1,
                    () => refused += 1,
                }
            }
        }
        assert!(started.elapsed() < LONGEST, "case {case}");
        fs::remove_file(&path).unwrap();
    }
    println!(
        "{judged} refused before llama.cpp saw them, {refused} by it, {} ended it in the other process, {worked} work",
        ended.len()
    );
    assert!(judged > CASES / 4 && worked > CASES / 20, "{judged} {worked}");
    assert!(ended.is_empty(), "the judge lets through what ends llama.cpp: {ended:#?}");
}
