//! A KV payload that is taken is covered by its planes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::kv(data));
