//! What shared memory allows, on every platform, so that options read the same everywhere.

use std::time::Duration;

/// How payloads lie in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum ShmMode {
    /// Payloads lie in an arena that the sender keeps and goes on writing to: nothing is copied or allocated on the
    /// way. For processes that trust each other: the sender can change a payload that the receiver is reading. It can
    /// never crash the receiver.
    #[default]
    Pooled,
    /// Each payload gets memory of its own that nobody can write any more when the receiver sees it, at the price of a
    /// copy. A side that asks for this gets it, whatever the other asks for.
    Sealed,
}

/// What connections over shared memory may use, and whom they are open to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShmOptions {
    /// How payloads lie in shared memory, both ways (pooled).
    pub mode: ShmMode,
    /// Users other than this process's own whose processes may be at the other end (none). A listener's socket file
    /// is its own user's alone; give others the right to it where they are to connect.
    pub uids: Vec<u32>,
    /// Longest payload in bytes that still goes through the socket (64 KiB). At most 1 MiB.
    pub inline: usize,
    /// Bytes of memory in which payloads of one connection lie that are on their way or in use at the peer (2 GiB).
    /// Taken as it is needed, and kept for the connection's next payloads.
    pub arena: u64,
    /// Bytes of the peer's memory that one connection maps (4 GiB). The peer is told and keeps below.
    pub peer_arena: u64,
    /// How long a receiver looks for what is coming before it sleeps, while traffic is brisk (50 us): a small frame
    /// then takes a fraction of the time that waking up takes. It costs a core up to so much after each frame that
    /// came soon after the one before; a quiet connection costs nothing. Other tasks get their turn between looks, and
    /// no more receivers of a process look at a time than there are cores. Zero: never.
    pub busy_poll: Duration,
}

impl Default for ShmOptions {
    fn default() -> Self {
        Self {
            mode: ShmMode::Pooled,
            uids: Vec::new(),
            inline: 64 << 10,
            arena: 2 << 30,
            peer_arena: 4 << 30,
            busy_poll: Duration::from_micros(50),
        }
    }
}
