//! GGUF files judged and read.

mod models;
mod refusals;
mod round_trip;
mod tensors;
mod vocabulary;
mod writer;
