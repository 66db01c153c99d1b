//! What transports promise. One program, so that what they share is built once; tests that need a process each are in
//! `tests/alone`.

#[path = "../common/mod.rs"]
mod common;

mod conformance;
mod datagrams;
mod handshake;
mod hostile;
mod http;
mod quic;
mod secure;
#[cfg(target_os = "linux")]
mod shm;
mod tcp;
mod telemetry;
