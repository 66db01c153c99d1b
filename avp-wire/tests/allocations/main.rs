//! What the codec allocates, counted: at most so many bytes or times, whatever comes.
//!
//! Counts are of the calling thread and of Rust's allocator; libzstd's own context is not among them. A vector that
//! grows counts its old and its new memory at once, as if it was copied.

#[cfg(feature = "zstd")]
mod bombs;
mod frames;
mod metadata;
mod refused;

use std::hint::black_box;

use allocation_counter::AllocationInfo;
use avp_wire::{DType, Metadata, Mode, PayloadType};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What is left of a refusal: metadata that was read first, and a view of the input.
const NEXT_TO_NOTHING: u64 = KIB;

/// What `work` allocates, and its result, which is still held where the counting ends.
fn measure<T>(work: impl FnOnce() -> T) -> (AllocationInfo, T) {
    let mut result = None;
    let info = allocation_counter::measure(|| result = Some(black_box(work())));
    (info, result.unwrap())
}

/// Metadata with every field set and so many entries of `extra`.
fn full_metadata(entries: usize) -> Metadata {
    let extra = [("model_hash", "5d".repeat(32)), ("num_steps", "20".into()), ("avp.kind", "context".into())];
    Metadata {
        session_id: "0f8a5c1e-5f0e-4a7e-9c39-3b1d2a6f7e10".into(),
        source_agent_id: "thinker".into(),
        target_agent_id: "writer".into(),
        model_id: "Qwen/Qwen2.5-0.5B".into(),
        hidden_dim: 896,
        num_layers: 24,
        payload_type: PayloadType::HiddenState,
        dtype: DType::BFloat16,
        tensor_shape: (1..9).collect(),
        mode: Mode::Json,
        compression: Some("zstd".into()),
        avp_map_id: "vocabulary:5d2c1b9a".into(),
        extra: extra.into_iter().take(entries).map(|(key, value)| (key.into(), value)).collect(),
        payload_checksum: Some(0x1234_5678),
    }
}
