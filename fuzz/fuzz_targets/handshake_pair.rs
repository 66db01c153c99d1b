//! Two sides agree or fail, each once, whatever the network does.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| avp_handshake::fuzzing::pair(data));
