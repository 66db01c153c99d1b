//! Cross-crate tests, conformance and benches of the Agent Vector Protocol workspace.

pub mod testee;
