//! What a transport allows: deadlines, budgets and sizes, as public fields with their defaults (docs/spec/limits.md).

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use avp_wire::{BufferPool, Limits};

use crate::auth::{Authorize, Token};
use crate::quic::QuicOptions;
use crate::shm::ShmOptions;
use crate::tls::TlsOptions;

/// Everything a connector or listener can be told. Cheap to clone; the buffer pool is shared by the clones.
///
/// ```
/// use avp_transport::Options;
/// let mut options = Options::default();
/// options.limits.memory_budget = 64 << 20;
/// assert!(!options.allow_remote);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// What a frame may look like, and the budgets that codec and transports share: memory, handshake, half-open
    /// connections, transfers, frame deadline and minimum rate.
    pub limits: Limits,
    /// How long the waits may take that concern transports alone.
    pub timeouts: Timeouts,
    /// How often a peer may do what costs it little.
    pub budgets: Budgets,
    /// Where payload buffers come from. The default is one pool for the whole process, which keeps up to 512 MiB of
    /// buffers that nobody uses. [`Connection::options`](crate::Connection::options) has the pool for what is to be
    /// sent there: over shared memory its buffers lie where the peer can see them, and go without a copy.
    pub pool: BufferPool,
    /// Lets plain TCP bind to or connect to addresses other than loopback. Plain TCP is neither encrypted nor
    /// authenticated, so this is off by default.
    pub allow_remote: bool,
    /// Certificates and trust for TLS, QUIC and HTTPS.
    pub tls: TlsOptions,
    /// How payloads lie in shared memory, how much of it, and whom it is shared with.
    pub shm: ShmOptions,
    /// Windows, timers and sizes of QUIC.
    pub quic: QuicOptions,
    /// What a connector shows to be let in. Sent in the hello, so over plain TCP in the clear.
    pub token: Option<Token>,
    /// Whom a listener lets in; `None` lets in everyone whom the transport has let through.
    pub authorize: Option<Arc<dyn Authorize>>,
}

impl Default for Options {
    fn default() -> Self {
        static POOL: LazyLock<BufferPool> = LazyLock::new(|| BufferPool::new(512 << 20));
        Self {
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            budgets: Budgets::default(),
            pool: POOL.clone(),
            allow_remote: false,
            tls: TlsOptions::default(),
            shm: ShmOptions::default(),
            quic: QuicOptions::default(),
            token: None,
            authorize: None,
        }
    }
}

/// Deadlines beside those of [`Limits`] (`handshake_timeout`, `frame_timeout` with `min_rate`). Time counts while this
/// side waits for the peer, never while the caller keeps the peer waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Reaching a peer: name lookup and connection (10 s).
    pub connect: Duration,
    /// Waiting for the next frame to begin (10 min).
    pub idle: Duration,
    /// How long a receiver looks for the next frame before it lets its thread sleep, while frames follow one another
    /// closely (100 us): within one machine a small frame then takes a fraction of the time that waking a thread takes.
    /// It costs a core up to so much after each frame that came soon after the one before; a quiet connection costs
    /// nothing. Other tasks get their turn between looks, and no more receivers of a process look at a time than there
    /// are cores. Zero: never.
    pub busy_poll: Duration,
    /// Waiting for the peer to end its side at a graceful close (10 s).
    pub close: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(600),
            busy_poll: Duration::from_micros(100),
            close: Duration::from_secs(10),
        }
    }
}

/// What one peer may do before its connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budgets {
    /// Frames whose payload is smaller than this many bytes are tiny (64).
    pub tiny_payload: u64,
    /// Tiny frames per second that a peer may sustain (10,000).
    pub tiny_per_second: u64,
    /// Tiny frames that a peer may send in a burst (20,000).
    pub tiny_burst: u64,
    /// Frames of one connection that may be damaged or refused (16).
    pub rejects: u32,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { tiny_payload: 64, tiny_per_second: 10_000, tiny_burst: 20_000, rejects: 16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_design() {
        let Options { limits, timeouts, budgets, allow_remote, .. } = Options::default();
        assert_eq!(limits.memory_budget, 2 * 1024 * 1024 * 1024);
        assert_eq!((limits.handshake_timeout.as_secs(), limits.max_handshake_len), (10, 64 * 1024));
        assert_eq!(limits.max_half_open_per_peer, 64);
        assert_eq!(limits.max_concurrent_transfers, 100);
        assert_eq!(limits.frame_timeout.as_secs(), 30);
        assert!(limits.min_rate > 0 && !allow_remote);
        assert!(timeouts.close < timeouts.idle && budgets.rejects > 0);
    }
}
