//! What this side takes from a peer (docs/spec/limits.md).

use core::time::Duration;

/// How literally the rules of docs/spec/frame.md are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Profile {
    /// Every rule, and the length of an uncompressed payload must be what shape and dtype, or the KV
    /// header, say.
    Strict,
    /// Every rule; an uncompressed payload is not held against its shape by the frame decoder.
    #[cfg_attr(feature = "serde", serde(rename = "default"))]
    Standard,
    /// What the Python SDK 0.6.2 accepts: reserved flags, flags that contradict the metadata, trailing
    /// bytes and metadata beyond the payload are let through.
    Lenient,
}

/// Bounds on what a peer can make this side hold, compute or wait for.
///
/// The codec keeps the bounds on bytes and counts; transports keep those on time and connections. Start
/// from a preset and set fields:
///
/// ```
/// let mut limits = avp_wire::Limits::default();
/// limits.memory_budget = 256 << 20;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
#[non_exhaustive]
pub struct Limits {
    /// Which rules apply.
    pub profile: Profile,
    /// Whether a payload is held against its `payload_checksum`, where it has one.
    pub verify_checksum: bool,
    /// Whether a slab is held against its `avp.blake3`, where it has one.
    pub verify_digest: bool,
    /// Longest metadata in bytes, checked before decoding: 64 KiB.
    pub max_metadata_len: u32,
    /// Largest `payload_length` (metadata and payload as sent) in bytes: what its u32 can say.
    pub max_frame_len: u32,
    /// Bytes of payload, after decompression, that one connection may hold: 2 GiB.
    pub memory_budget: u64,
    /// Most dimensions in `tensor_shape`: 8.
    pub max_rank: usize,
    /// Most entries in `extra`: 64.
    pub max_extra_entries: usize,
    /// Longest key in `extra` in bytes: 256.
    pub max_extra_key_len: usize,
    /// Longest value in `extra` in bytes: 4 KiB.
    pub max_extra_value_len: usize,
    /// Largest zstd window as a power of two: 23 (8 MiB).
    pub max_window_log: u32,
    /// Most slabs of a transfer: 65,536. Each costs the receiver 33 bytes.
    pub max_slabs: u32,
    /// Longest handshake message in bytes: 64 KiB. Kept by transports.
    pub max_handshake_len: u32,
    /// Time for a whole handshake: 10 s. Kept by transports.
    pub handshake_timeout: Duration,
    /// Connections of one peer whose handshake is not finished: 64. Kept by transports.
    pub max_half_open_per_peer: usize,
    /// Transfers at once on one connection: 100. Kept by transports.
    pub max_concurrent_transfers: usize,
    /// Time for a frame before the minimum rate adds to it: 30 s. Kept by transports.
    pub frame_timeout: Duration,
    /// Bytes per second that a frame must reach on top of `frame_timeout`: 64 KiB/s. Kept by transports.
    pub min_rate: u64,
}

impl Limits {
    /// The defaults, and uncompressed payloads must have exactly the length that their shape announces.
    #[must_use]
    pub fn strict() -> Self {
        Self { profile: Profile::Strict, ..Self::default() }
    }

    /// Accepts what the Python SDK accepts, under generous bounds. For files and peers of old.
    #[must_use]
    pub fn lenient() -> Self {
        Self {
            profile: Profile::Lenient,
            max_metadata_len: 16 << 20,
            max_rank: usize::MAX,
            max_extra_entries: usize::MAX,
            max_extra_key_len: usize::MAX,
            max_extra_value_len: usize::MAX,
            max_window_log: 31,
            ..Self::default()
        }
    }

    /// For bytes that this user made and that nothing can corrupt on the way: no checksum or digest pass
    /// and no memory budget. The rules of the format still hold.
    #[must_use]
    pub fn trusted() -> Self {
        Self {
            verify_checksum: false,
            verify_digest: false,
            memory_budget: u64::MAX,
            max_window_log: 31,
            ..Self::default()
        }
    }

    /// Time that a frame of `len` bytes may take: `frame_timeout` and what `min_rate` adds.
    #[must_use]
    pub fn frame_deadline(&self, len: u64) -> Duration {
        let millis = len.saturating_mul(1000).checked_div(self.min_rate).unwrap_or(0);
        self.frame_timeout.saturating_add(Duration::from_millis(millis))
    }

    pub(crate) fn is_lenient(&self) -> bool {
        self.profile == Profile::Lenient
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            profile: Profile::Standard,
            verify_checksum: true,
            verify_digest: true,
            max_metadata_len: 64 << 10,
            max_frame_len: u32::MAX,
            memory_budget: 2 << 30,
            max_rank: 8,
            max_extra_entries: 64,
            max_extra_key_len: 256,
            max_extra_value_len: 4 << 10,
            max_window_log: 23,
            max_slabs: 65_536,
            max_handshake_len: 64 << 10,
            handshake_timeout: Duration::from_secs(10),
            max_half_open_per_peer: 64,
            max_concurrent_transfers: 100,
            frame_timeout: Duration::from_secs(30),
            min_rate: 64 << 10,
        }
    }
}
