//! The name of a transfer (`avp.transfer`).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use crate::ext::{ExtError, TRANSFER};

/// Longest id in bytes.
const MAX_LEN: usize = 64;

/// Id of a transfer: 1 to 64 printable ASCII characters without spaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(String);

impl TransferId {
    /// An id of 128 random bits, in hex: nobody else can name it who was not told.
    #[must_use]
    pub fn from_random(bits: [u8; 16]) -> Self {
        Self(bits.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The id as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TransferId {
    type Err = ExtError;

    fn from_str(id: &str) -> Result<Self, ExtError> {
        let sound = (1..=MAX_LEN).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        if sound { Ok(Self(id.to_owned())) } else { Err(ExtError { key: TRANSFER }) }
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: extensions 1.1
    #[test]
    fn ids_are_1_to_64_printable_characters() {
        for good in ["t", "00ff-7", &"x".repeat(64)] {
            assert_eq!(good.parse::<TransferId>().unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "é", "a\n", &"x".repeat(65)] {
            assert_eq!(bad.parse::<TransferId>(), Err(ExtError { key: TRANSFER }), "{bad:?}");
        }
    }
}
