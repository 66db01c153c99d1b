//! Agent Vector Protocol: identity, hashing, hello, resolution and the sans-IO negotiator.

mod identity;

pub use identity::ModelIdentity;
