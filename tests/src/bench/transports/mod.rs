//! The transports on loopback, each beside the bare thing that it is made of.

pub(crate) mod http;
pub(crate) mod quic;
#[cfg(target_os = "linux")]
pub(crate) mod shm;
pub(crate) mod streams;
pub(crate) mod trips;

use avp_transport::Options;
use avp_transport::testing::Ends;
use avp_wire::{BufferPool, EncodeOptions, Frame, Metadata};

/// A payload, how many of it go in a round, and how many rounds count.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    size: usize,
    count: usize,
    rounds: usize,
}

const LOADS: [Load; 4] = [
    Load { name: "1 KiB", size: 1 << 10, count: 50_000, rounds: 7 },
    Load { name: "1 MiB", size: 1 << 20, count: 400, rounds: 7 },
    Load { name: "64 MiB", size: 64 << 20, count: 6, rounds: 7 },
    Load { name: "1 GiB", size: 1 << 30, count: 1, rounds: 3 },
];

impl Load {
    fn bytes(&self) -> usize {
        self.size * self.count
    }

    fn frame(&self) -> Frame {
        Frame::new(Metadata::default(), vec![1; self.size])
    }

    /// Small frames go out together, as an application that has many of them sends them.
    fn gathered(&self) -> bool {
        self.size < 64 << 10
    }
}

/// Whether the payloads have checksums that are checked.
fn encoding(checksum: bool) -> EncodeOptions {
    EncodeOptions { checksum, ..EncodeOptions::default() }
}

/// Both ends with certificates, and a pool that keeps a buffer of the largest payload. What is received is checked
/// where `checksum` says so.
fn ends(checksum: bool) -> Ends {
    let mut options = Options::default();
    options.limits.verify_checksum = checksum;
    options.pool = BufferPool::new(2 << 30);
    Ends::secured(options)
}
