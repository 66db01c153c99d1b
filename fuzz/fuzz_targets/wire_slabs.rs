//! A reassembly knows what came, whatever comes in whatever order.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_wire::fuzzing::slabs(data));
