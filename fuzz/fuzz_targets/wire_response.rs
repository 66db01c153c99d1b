//! An answer that is taken survives its own encoding.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::response(data));
