//! Agent Vector Protocol: version-1 frames, KV payloads and limits, without IO.

mod kv;

pub use kv::KvDtype;
