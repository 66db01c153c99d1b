//! The HTTP binding.

mod close;
mod limits;
mod requests;
mod upgrade;
