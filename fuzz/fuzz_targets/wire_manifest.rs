//! A manifest that is taken has a slab for every index and an index for every slab.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::manifest(data));
