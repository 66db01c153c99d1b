//! A header that is taken is written back as it was.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::header(data));
