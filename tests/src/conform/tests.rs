//! What the runner itself promises.
