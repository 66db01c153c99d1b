//! Sizes that decide how fast hyper is, alike on both sides.

use std::time::Duration;

/// Bytes of one HTTP/1.1 read, and of what waits to be written.
pub(super) const BUFFER: usize = 512 << 10;
/// Bytes of an HTTP/2 stream that may be on their way.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;
/// Bytes of all HTTP/2 streams of a connection together that may be on their way.
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of an HTTP/2 frame: each costs a header and a turn.
pub(super) const FRAME_SIZE: u32 = 256 << 10;
/// How often an HTTP/2 peer that says nothing is asked whether it is there.
pub(super) const PING: Duration = Duration::from_secs(20);
