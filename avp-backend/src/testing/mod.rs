//! For tests of this crate, of engines and of applications: a backend made of given matrices, and the suite that every engine passes.

mod matrix;
pub mod suite;

pub use matrix::{MatrixBackend, MatrixTables, TestDevice};
