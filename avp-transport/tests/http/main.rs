//! The HTTP binding. One program, since each takes its time to build.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/http.rs"]
mod web;

mod close;
mod limits;
mod requests;
mod upgrade;
