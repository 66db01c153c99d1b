//! A stricter profile never reads another frame than a laxer one.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::frame(data));
