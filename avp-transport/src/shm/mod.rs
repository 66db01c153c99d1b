//! Shared memory between processes of one machine (docs/spec/shm.md). Linux only.
//!
//! A Unix socket carries records and small frames; large payloads lie in memory whose descriptor crosses the socket.
//! A second socket brings word of what the receiver has taken and given back, so that a sender learns of it whatever
//! its own receiving side does. Each side sends from memory of its own, which the other can only read.
//!
//! - [`memory`]: segments of memory, and what is `unsafe` about them.
//! - `arena`, `placing`, `lending`: what the sending side allocates, where its payloads lie, and what is out at the peer.
//! - `segments`, `returns`: the peer's memory, and what the receiving side says about payloads.
//! - `wire`, `link`: records, and descriptors beside them.
//! - `socket`, `supply`: waiting for the other side, asleep or awake.
//! - `greeting`, `path`, `transport`: how a connection comes about.

#[cfg(target_os = "linux")]
mod ahead;
#[cfg(target_os = "linux")]
mod arena;
#[cfg(target_os = "linux")]
mod fault;
#[cfg(target_os = "linux")]
mod greeting;
#[cfg(target_os = "linux")]
mod lending;
#[cfg(target_os = "linux")]
mod link;
#[cfg(target_os = "linux")]
mod memory;
mod options;
#[cfg(target_os = "linux")]
mod path;
#[cfg(target_os = "linux")]
mod placing;
#[cfg(target_os = "linux")]
mod receiver;
#[cfg(target_os = "linux")]
mod returns;
#[cfg(target_os = "linux")]
mod segments;
#[cfg(target_os = "linux")]
mod sender;
#[cfg(target_os = "linux")]
mod socket;
#[cfg(target_os = "linux")]
mod supply;
#[cfg(target_os = "linux")]
mod transport;
#[cfg(target_os = "linux")]
mod wire;

pub use fault::ShmFault;
pub use options::{ShmMode, ShmOptions};
#[cfg(target_os = "linux")]
pub use transport::{ShmConnector, ShmListener};
