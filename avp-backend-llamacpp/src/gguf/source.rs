//! Bytes of a file from front to back, none promised that are not there.

use std::io::{self, BufRead};

use super::error::GgufFault;
use crate::shown::shown;

/// Most bytes that header, metadata and tensor infos may take. The largest vocabularies known take about 30 MiB.
pub(super) const MAX_HEAD: u64 = 256 << 20;

/// A reader that knows how many bytes are left.
#[derive(Debug)]
pub(super) struct Source<R> {
    inner: R,
    at: u64,
    len: u64,
}

impl<R: BufRead> Source<R> {
    /// `inner` stands at the start of a file of `len` bytes.
    pub(super) fn new(inner: R, len: u64) -> Self {
        Self { inner, at: 0, len }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes of the whole file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Errs where `count` things of at least `each` bytes cannot follow.
    pub(super) fn expect(&self, what: &str, count: u64, each: u64) -> Result<(), GgufFault> {
        let left = self.len.saturating_sub(self.at);
        match count.checked_mul(each) {
            Some(needed) if needed <= left => match self.at.checked_add(needed) {
                Some(end) if end <= MAX_HEAD => Ok(()),
                _ => Err(GgufFault::HeadTooLarge { limit: MAX_HEAD }),
            },
            _ => Err(GgufFault::Truncated { what: what.to_owned(), at: self.at, left }),
        }
    }

    /// The next `count` bytes, in place of what `into` held.
    pub(super) fn bytes(&mut self, what: &str, count: u64, into: &mut Vec<u8>) -> Result<(), GgufFault> {
        self.expect(what, count, 1)?;
        into.clear();
        // Grows as bytes arrive: the file may have become shorter since its length was asked.
        let got = io::Read::read_to_end(&mut io::Read::take(&mut self.inner, count), into)?;
        let got = u64::try_from(got).unwrap_or(u64::MAX);
        self.at = self.at.saturating_add(got);
        if got < count {
            return Err(GgufFault::Truncated { what: what.to_owned(), at: self.at, left: 0 });
        }
        Ok(())
    }

    /// The next `N` bytes.
    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufFault> {
        let count = u64::try_from(N).unwrap_or(u64::MAX);
        self.expect(what, count, 1)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                GgufFault::Truncated { what: what.to_owned(), at: self.at, left: 0 }
            }
            _ => GgufFault::Io(e),
        })?;
        self.at = self.at.saturating_add(count);
        Ok(bytes)
    }

    /// A little-endian u32.
    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufFault> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A little-endian u64.
    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufFault> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string after its length, at most `longest` bytes of it.
    pub(super) fn string(&mut self, what: &str, longest: u64) -> Result<String, GgufFault> {
        let mut bytes = Vec::new();
        self.string_bytes(what, longest, &mut bytes)?;
        String::from_utf8(bytes).map_err(|e| not_utf8(what, e.as_bytes()))
    }

    /// As [`Self::string`], into a buffer that is used again.
    pub(super) fn string_into(
        &mut self,
        what: &str,
        buffer: &mut Vec<u8>,
        to: &mut String,
    ) -> Result<(), GgufFault> {
        self.string_bytes(what, u64::MAX, buffer)?;
        to.push_str(std::str::from_utf8(buffer).map_err(|_| not_utf8(what, buffer))?);
        Ok(())
    }

    fn string_bytes(&mut self, what: &str, longest: u64, into: &mut Vec<u8>) -> Result<(), GgufFault> {
        let len = self.u64(what)?;
        if len > longest {
            return Err(GgufFault::StringTooLong { what: what.to_owned(), len, limit: longest });
        }
        self.bytes(what, len, into)
    }
}

fn not_utf8(what: &str, bytes: &[u8]) -> GgufFault {
    let start = bytes.get(..bytes.len().min(400)).unwrap_or_default();
    GgufFault::NotUtf8 { what: what.to_owned(), text: shown(&String::from_utf8_lossy(start)) }
}
