//! Distributions that are taken are written back as they were.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::distribution(data));
