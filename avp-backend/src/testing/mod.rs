//! For tests of this crate, of engines and of applications: a backend made of given matrices.

mod matrix;

pub use matrix::{MatrixBackend, MatrixTables};
