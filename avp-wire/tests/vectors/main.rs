//! The golden vectors of `spec-vectors/`: what the reference peer writes and reads, and what is rejected here.

mod hand_made;
mod kv_cache;
mod lenient;
mod load;
mod messages;
mod negative;
mod suite;
