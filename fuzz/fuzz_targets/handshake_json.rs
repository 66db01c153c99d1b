//! Any bytes give a document or an error, and canonical text stays as it is.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_handshake::fuzzing::json(data));
