//! Compressed payloads stay within the memory budget.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::compression(data));
