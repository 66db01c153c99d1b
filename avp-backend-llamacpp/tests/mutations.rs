//! Damaged GGUF files: an error or a file, soon, and in little memory. Alone in its program, because it looks at the memory of
//! the whole process.

use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use writer::{Put, Writer, open};

#[path = "gguf/writer.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod writer;

#[test]
fn damaged_files_neither_panic_nor_take_memory_or_time() {
    let mut file = Writer::model("qwen2");
    file.put("tokenizer.chat_template", Put::Str("{% for m in messages %}".repeat(20)));
    file.put("tokenizer.ggml.scores", Put::F32s(vec![0.5; 5]));
    let (bytes, head) = (file.bytes(), file.head().len());
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut refused = 0;
    let judge = |bytes: &[u8]| -> bool {
        let started = Instant::now();
        let meta = open(bytes).and_then(|file| file.meta());
        // Hundreds of times what it takes on a loaded machine.
        assert!(started.elapsed() < Duration::from_secs(20));
        meta.inspect_err(|e| assert!(e.to_string().len() < 2000)).is_err()
    };
    assert!(!judge(&bytes));
    let before = peak_memory();
    for case in 0..600 {
        let mut bad = bytes.clone();
        match case % 4 {
            0 => {
                for _ in 0..rng.random_range(1..4) {
                    bad[rng.random_range(0..head)] ^= 1 << rng.random_range(0..8);
                }
            }
            1 => bad.truncate(rng.random_range(0..bytes.len())),
            2 => {
                let at = rng.random_range(8..head - 8);
                let shift = rng.random_range(0..64);
                let huge = [u64::MAX, 1 << 63, i64::MAX as u64, u64::MAX >> shift, 1 << shift][case / 4 % 5];
                bad[at..at + 8].copy_from_slice(&huge.to_le_bytes());
            }
            _ => {
                let from = rng.random_range(0..head);
                let until = rng.random_range(from..head.min(from + 64));
                rng.fill(&mut bad[from..until]);
            }
        }
        refused += u32::from(judge(&bad));
    }
    // Every length in the file, one after the other, at its most.
    for at in 8..head - 8 {
        let mut bad = bytes.clone();
        bad[at..at + 8].copy_from_slice(&(u64::MAX >> (at % 40)).to_le_bytes());
        refused += u32::from(judge(&bad));
    }
    assert!(refused > 500, "{refused}: most damage is noticed");
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        assert!(after - before < 16 << 10, "{} KiB more than before", after - before);
    }
}

/// The most memory this process has ever reserved, in KiB, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmPeak:")?.trim().strip_suffix(" kB")?.parse().ok())
}
