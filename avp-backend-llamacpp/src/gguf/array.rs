//! Arrays of metadata, kept about as small as they are in the file.

use std::io::BufRead;

use super::error::GgufFault;
use super::source::Source;
use super::value::ValueType;
use crate::shown::shown;

/// An array of metadata; arrays of arrays, which llama.cpp does not read either, are refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    /// Numbers or booleans, as they stand in the file.
    Numbers {
        /// Type of each element.
        ty: ValueType,
        /// Little-endian bytes of all elements.
        bytes: Vec<u8>,
    },
    /// Strings.
    Strings(StrArray),
}

impl Array {
    /// Type of the elements.
    #[must_use]
    pub fn element_type(&self) -> ValueType {
        match self {
            Self::Numbers { ty, .. } => *ty,
            Self::Strings(_) => ValueType::Str,
        }
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers { ty, bytes } => bytes.len().checked_div(ty.size()).unwrap_or(0),
            Self::Strings(strings) => strings.len(),
        }
    }

    /// Whether it has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of `N` bytes each, where they are of type `of`.
    pub(super) fn elements<const N: usize>(
        &self,
        of: ValueType,
    ) -> Option<impl Iterator<Item = [u8; N]> + '_> {
        match self {
            Self::Numbers { ty, bytes } if *ty == of && ty.size() == N => {
                Some(bytes.as_chunks().0.iter().copied())
            }
            _ => None,
        }
    }

    pub(super) fn read<R: BufRead>(source: &mut Source<R>, key: &str) -> Result<Self, GgufFault> {
        let what = format!("the array '{}'", shown(key));
        let ty = ValueType::read(source, key)?;
        let count = source.u64(&what)?;
        match ty {
            ValueType::Array => Err(GgufFault::NestedArray { key: shown(key) }),
            ValueType::Str => StrArray::read(source, &what, count).map(Self::Strings),
            _ => {
                let each = u64::try_from(ty.size()).unwrap_or(u64::MAX);
                source.expect(&what, count, each)?;
                let mut bytes = Vec::new();
                source.bytes(&what, count.saturating_mul(each), &mut bytes)?;
                if ty == ValueType::Bool && bytes.iter().any(|&b| b > 1) {
                    return Err(GgufFault::NotABool { key: shown(key) });
                }
                Ok(Self::Numbers { ty, bytes })
            }
        }
    }
}

/// Strings in one piece of memory, and where each of them ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StrArray {
    text: String,
    ends: Vec<u32>,
}

impl StrArray {
    /// Number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = usize::try_from(*self.ends.get(index)?).ok()?;
        let start = match index.checked_sub(1) {
            Some(before) => usize::try_from(*self.ends.get(before)?).ok()?,
            None => 0,
        };
        self.text.get(start..end)
    }

    /// The strings in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    fn read<R: BufRead>(source: &mut Source<R>, what: &str, count: u64) -> Result<Self, GgufFault> {
        // Each string has at least its length.
        source.expect(what, count, 8)?;
        let mut strings = Self::default();
        let mut buffer = Vec::new();
        for _ in 0..count {
            source.string_into(what, &mut buffer, &mut strings.text)?;
            let end = u32::try_from(strings.text.len());
            strings.ends.push(end.map_err(|_| GgufFault::HeadTooLarge { limit: super::source::MAX_HEAD })?);
        }
        Ok(strings)
    }
}
