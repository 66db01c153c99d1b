//! Which positions of a layer's cache are there while it is being imported.

use std::collections::BTreeMap;
use std::ops::Range;

/// The positions that one layer holds. Imports may come in any order.
#[derive(Clone, Debug, Default)]
pub struct Filled {
    prefix: usize,
    /// Runs beyond a gap, by their start.
    ahead: BTreeMap<usize, usize>,
}

impl Filled {
    /// The first `len` positions.
    #[must_use]
    pub fn prefix_of(len: usize) -> Self {
        Self { prefix: len, ahead: BTreeMap::new() }
    }

    /// Positions from 0 on without a gap.
    #[must_use]
    pub fn prefix(&self) -> usize {
        self.prefix
    }

    /// The end of the last position that is there.
    #[must_use]
    pub fn reach(&self) -> usize {
        self.ahead.values().copied().max().unwrap_or(0).max(self.prefix)
    }

    /// These are there too.
    pub fn add(&mut self, run: &Range<usize>) {
        if run.start > self.prefix {
            let end = self.ahead.entry(run.start).or_default();
            *end = run.end.max(*end);
            return;
        }
        self.prefix = self.prefix.max(run.end);
        while let Some(next) = self.ahead.first_entry().filter(|next| *next.key() <= self.prefix) {
            self.prefix = self.prefix.max(next.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_join_the_prefix_when_the_gap_before_them_closes() {
        let mut filled = Filled::prefix_of(2);
        filled.add(&(6..8));
        filled.add(&(4..5));
        assert_eq!((filled.prefix(), filled.reach()), (2, 8));
        filled.add(&(2..4));
        assert_eq!(filled.prefix(), 5);
        filled.add(&(5..6));
        assert_eq!((filled.prefix(), filled.reach()), (8, 8));
    }
}
