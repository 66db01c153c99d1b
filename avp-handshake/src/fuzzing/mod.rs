//! Bodies of the fuzz targets in `fuzz/`, which the property tests run too, and over the committed corpus. Not part of
//! the API.

mod messages;
mod negotiator;
mod pair;
#[cfg(test)]
mod tests;

pub use messages::{hello, json};
pub use negotiator::negotiator;
pub use pair::pair;
