//! Whole numbers of any size, kept as their decimal text.

use std::cmp::Ordering;
use std::fmt;

/// A whole number of any size, as Python's `int`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integer {
    negative: bool,
    /// Without leading zeros; `0` for zero, which is never negative.
    digits: String,
}

impl Integer {
    /// Reads `-?[0-9]+`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Some(Self { negative: false, digits: "0".to_owned() });
        }
        Some(Self { negative, digits: digits.to_owned() })
    }

    /// The value as u32, where it fits.
    #[must_use]
    pub fn to_u32(&self) -> Option<u32> {
        if self.negative { None } else { self.digits.parse().ok() }
    }

    /// The value as u64, where it fits.
    #[must_use]
    pub fn to_u64(&self) -> Option<u64> {
        if self.negative { None } else { self.digits.parse().ok() }
    }
}

impl fmt::Display for Integer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negative {
            f.write_str("-")?;
        }
        f.write_str(&self.digits)
    }
}

impl PartialOrd for Integer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Integer {
    fn cmp(&self, other: &Self) -> Ordering {
        let size = || self.digits.len().cmp(&other.digits.len()).then_with(|| self.digits.cmp(&other.digits));
        match (self.negative, other.negative) {
            (false, false) => size(),
            (true, true) => size().reverse(),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

macro_rules! from_primitive {
    ($($t:ty),*) => {$(
        impl From<$t> for Integer {
            fn from(value: $t) -> Self {
                // Display of a primitive is always what `parse` takes.
                Self::parse(&value.to_string()).unwrap_or(Self { negative: false, digits: "0".to_owned() })
            }
        }
    )*};
}
from_primitive!(i32, u32, i64, u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_sort_by_value_not_by_text() {
        let mut values: Vec<Integer> = [10, -2, 9, -10, 0, 100].into_iter().map(Integer::from).collect();
        values.sort();
        let text: Vec<String> = values.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["-10", "-2", "0", "9", "10", "100"]);
    }

    #[test]
    fn minus_zero_is_zero() {
        assert_eq!(Integer::parse("-0").map(|i| i.to_string()).as_deref(), Some("0"));
    }
}
