//! Sizes that decide how fast hyper is, alike on both sides.

use std::time::Duration;

use hyper::{client, server};
use hyper_util::rt::TokioTimer;

/// Bytes of one HTTP/1.1 read, and of what waits to be written.
pub(super) const BUFFER: usize = 512 << 10;
/// Bytes of an HTTP/2 stream that may be on their way.
pub(super) const STREAM_WINDOW: u32 = 4 << 20;
/// Bytes of all HTTP/2 streams of a connection together that may be on their way.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of an HTTP/2 frame. Each costs a header and a turn; hyper takes memory for each, and that of long ones comes
/// fresh from the system, page by page.
const FRAME_SIZE: u32 = 64 << 10;
/// How much of a body is handed to hyper at once: what it writes in one call, and what tells that a peer takes data.
pub(crate) const PIECE: usize = 256 << 10;
/// Bytes that are read before tasks beside the connection have their turn: what was read is in the cache then.
pub(super) const TURN: usize = 256 << 10;
/// How often an HTTP/2 peer that says nothing is asked whether it is there.
const PING: Duration = Duration::from_secs(20);

/// hyper's two builders share no trait.
macro_rules! http2_settings {
    ($builder:expr) => {
        $builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_SIZE)
            .max_send_buf_size(BUFFER)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
    };
}

/// Settings of an HTTP/2 client.
pub(crate) fn http2_client<E: Clone>(builder: &mut client::conn::http2::Builder<E>) {
    http2_settings!(builder);
}

/// Settings of an HTTP/2 server.
pub(crate) fn http2_server<E>(builder: &mut server::conn::http2::Builder<E>) {
    http2_settings!(builder);
}
