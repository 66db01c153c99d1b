//! Ollama's models found on disk, and its server asked to let go of them.

mod names;
mod server;
mod store;
mod tree;
