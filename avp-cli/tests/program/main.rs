//! The program, run as its users run it. One binary for all, because each would link all engines anew.

mod bad_address;
mod bad_gguf;
mod bad_input;
mod bad_models;
mod bench;
mod cert;
mod common;
mod cross_model;
mod demo;
mod grammar;
mod hostile_peer;
mod http;
#[cfg(feature = "llamacpp")]
mod llamacpp;
mod lossless;
mod map;
mod models;
#[cfg(feature = "llamacpp")]
mod mutated_gguf;
#[path = "../../../tests/tests/common/python.rs"]
mod python;
mod python_serve;
mod python_torch;
mod secure;
