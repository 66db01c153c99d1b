//! Bodies of the fuzz targets in `fuzz/`, which also run here as property tests and over the committed corpus. Each
//! takes any bytes and panics where a promise of this crate is broken.

mod frame;
mod metadata;
mod payload;
mod slabs;
mod stream;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use frame::{frame, header};
pub use metadata::{extensions, metadata, response};
pub use payload::{compression, kv};
pub use slabs::{manifest, slabs};
pub use stream::splits;
pub use vocabulary::{distribution, vocabulary};

use crate::Limits;

/// What a fuzzed payload may take in memory.
const BUDGET: u64 = 4 << 20;

fn limits(preset: Limits) -> Limits {
    Limits { memory_budget: BUDGET, ..preset }
}

/// Bytes read as the choices that a target makes; 0 where they have run out.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let (&byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        byte
    }

    /// From `low` on, `count` numbers.
    fn from(&mut self, low: u32, count: u32) -> u32 {
        low + u32::from(self.byte()) % count
    }

    /// The next `len` bytes, or what there is.
    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at_checked(len).unwrap_or((self.0, &[]));
        self.0 = rest;
        bytes
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
