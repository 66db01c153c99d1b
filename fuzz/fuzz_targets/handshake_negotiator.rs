//! A handshake ends once, by its deadline, whatever comes in whatever order.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_handshake::fuzzing::negotiator(data));
