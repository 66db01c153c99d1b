//! The HTTP binding.

mod close;
mod limits;
mod memory;
mod requests;
mod upgrade;
