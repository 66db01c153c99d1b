//! Agents as an application links them. One binary for all, because each would link all engines anew.

mod common;
mod cross_model;
#[cfg(target_os = "linux")]
mod device;
mod exchange;
mod hostile;
mod http;
mod receiver;
mod sessions;
mod slabs;
