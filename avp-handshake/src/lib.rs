//! Agent Vector Protocol: identity, hashing, hello, resolution and the sans-IO negotiator.
