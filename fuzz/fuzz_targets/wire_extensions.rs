//! Values of registered `extra` keys have one spelling.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::extensions(data));
