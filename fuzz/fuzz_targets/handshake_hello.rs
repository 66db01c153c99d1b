//! Any bytes give a hello or an error, and a hello reads back as it is written.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_handshake::fuzzing::hello(data));
