//! A stream gives the same frames however it is split.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::splits(data));
