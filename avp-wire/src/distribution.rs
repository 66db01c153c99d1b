//! Distributions over a vocabulary, one position after another (docs/spec/extensions.md, 5).

use alloc::vec::Vec;

use bytes::Bytes;

use crate::code::{ErrorCode, Fault};
use crate::varint::{MAX_VARINT_LEN, Reader, write_varint};

/// What rounding may add to a sum of probabilities that is 1.
const ROUNDING: f64 = 1e-4;
/// Bytes of a position beside its tokens: their number, and the mass left out.
const FIXED: usize = 8;

/// How likely each of some tokens of the receiver's vocabulary is at one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    ids: Vec<u32>,
    probabilities: Vec<f32>,
    left_out: f32,
}

impl Distribution {
    /// A distribution of the tokens `ids`, ascending and without repetition, of which there is at least one. `left_out` is the
    /// mass of all others.
    ///
    /// # Errors
    /// [`DistributionError`] if it is none.
    pub fn new(ids: Vec<u32>, probabilities: Vec<f32>, left_out: f32) -> Result<Self, DistributionError> {
        if ids.is_empty() || ids.len() != probabilities.len() {
            return Err(DistributionError::Length { ids: ids.len(), probabilities: probabilities.len() });
        }
        let mut followed = ids.iter().zip(ids.iter().skip(1));
        if let Some((_, next)) = followed.find(|(id, next)| id >= next) {
            return Err(DistributionError::Order(*next));
        }
        let values = probabilities.iter().copied().chain([left_out]);
        let mut sum = 0.0;
        for value in values {
            if !value.is_finite() || value < 0.0 {
                return Err(DistributionError::Value(value));
            }
            sum += f64::from(value);
        }
        if sum > 1.0 + ROUNDING {
            return Err(DistributionError::Sum(sum));
        }
        Ok(Self { ids, probabilities, left_out })
    }

    /// Token ids of the receiver, ascending.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The probability of each.
    #[must_use]
    pub fn probabilities(&self) -> &[f32] {
        &self.probabilities
    }

    /// The mass of the tokens that are not here.
    #[must_use]
    pub fn left_out(&self) -> f32 {
        self.left_out
    }

    /// The payload of one position after another.
    #[must_use]
    pub fn encode_all(positions: &[Self]) -> Vec<u8> {
        let len = |position: &Self| FIXED + position.ids.len() * (MAX_VARINT_LEN + 4);
        let mut out = Vec::with_capacity(positions.iter().map(len).sum());
        for position in positions {
            // No vocabulary has more tokens than ids.
            let count = u32::try_from(position.ids.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&count.to_le_bytes());
            let mut before = 0;
            for &id in &position.ids {
                write_varint(id.wrapping_sub(before), &mut out);
                before = id;
            }
            for value in position.probabilities.iter().chain([&position.left_out]) {
                out.extend_from_slice(&value.to_le_bytes());
            }
        }
        out
    }

    /// Reads a payload of `count` positions, the one element of its frame's `tensor_shape`. Takes memory as the payload
    /// bears it out.
    ///
    /// # Errors
    /// [`DistributionError`] naming what is wrong.
    pub fn decode_all(payload: &Bytes, count: u32) -> Result<Vec<Self>, DistributionError> {
        let mut reader = Reader::new(payload);
        let mut positions = Vec::new();
        for _ in 0..count {
            positions.push(Self::read(&mut reader)?);
        }
        match reader.len() {
            0 if !positions.is_empty() => Ok(positions),
            0 => Err(DistributionError::Empty),
            rest => Err(DistributionError::Trailing(rest)),
        }
    }

    /// Reads one position.
    fn read(reader: &mut Reader<'_>) -> Result<Self, DistributionError> {
        let truncated = DistributionError::Truncated;
        let count = u32::from_le_bytes(reader.take().ok_or(truncated)?);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        // Each token takes 5 bytes at least, which bounds what is reserved for it.
        if count > reader.len() / 5 {
            return Err(truncated);
        }
        let mut ids = Vec::with_capacity(count);
        let mut id = 0_u32;
        for _ in 0..count {
            let next = id.checked_add(reader.varint(truncated, DistributionError::Varint)?);
            id = next.ok_or(DistributionError::Varint)?;
            ids.push(id);
        }
        let mut value = || Ok(f32::from_le_bytes(reader.take().ok_or(truncated)?));
        let mut probabilities = Vec::with_capacity(count);
        for _ in 0..count {
            probabilities.push(value()?);
        }
        Self::new(ids, probabilities, value()?)
    }
}

/// Why something is not a distribution.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DistributionError {
    /// No positions.
    #[error("a payload of no distribution; send one position at least")]
    Empty,
    /// The payload ends within a position.
    #[error("the payload ends within a distribution")]
    Truncated,
    /// The payload goes on after the last position.
    #[error("{0} bytes follow the last distribution that tensor_shape announces")]
    Trailing(
        /// How many.
        usize,
    ),
    /// An id that is no u32, or not in its shortest form.
    #[error("a token id is longer than 32 bits, or written in more bytes than it needs")]
    Varint,
    /// No tokens, or not as many ids as probabilities.
    #[error("{ids} token ids for {probabilities} probabilities; send as many of both, and one at least")]
    Length {
        /// Number of ids.
        ids: usize,
        /// Number of probabilities.
        probabilities: usize,
    },
    /// An id that is not above the one before.
    #[error("token id {0} is repeated or not in ascending order")]
    Order(
        /// The id.
        u32,
    ),
    /// A probability, or the mass left out, that is negative or not finite.
    #[error("{0} is no probability")]
    Value(
        /// The value.
        f32,
    ),
    /// Probabilities and the mass left out are more than 1.
    #[error("the probabilities and the mass left out add up to {0}, more than 1")]
    Sum(
        /// The sum.
        f64,
    ),
}

impl DistributionError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidDistribution
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.code().fault()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(ids: &[u32], probabilities: &[f32], left_out: f32) -> Result<Distribution, DistributionError> {
        Distribution::new(ids.to_vec(), probabilities.to_vec(), left_out)
    }

    fn distributions() -> impl Strategy<Value = Vec<Distribution>> {
        let tokens = prop::collection::btree_map(any::<u32>(), 0.0_f32..1.0, 1..40);
        let position = (tokens, 0.0_f32..1.0).prop_map(|(tokens, left_out)| {
            let total: f32 = tokens.values().sum::<f32>() + left_out + 1e-6;
            let probabilities = tokens.values().map(|p| p / total).collect();
            Distribution::new(tokens.into_keys().collect(), probabilities, left_out / total).unwrap()
        });
        prop::collection::vec(position, 1..6)
    }

    proptest! {
        // spec: extensions 5.2
        #[test]
        fn what_is_encoded_is_decoded(positions in distributions()) {
            let payload = Bytes::from(Distribution::encode_all(&positions));
            let count = positions.len() as u32;
            prop_assert_eq!(Distribution::decode_all(&payload, count).unwrap(), positions);
            prop_assert!(Distribution::decode_all(&payload, count + 1).is_err());
            prop_assert!(Distribution::decode_all(&payload, count - 1).is_err());
        }

        // spec: extensions 5.6
        #[test]
        fn every_cut_and_every_byte_after_the_end_is_an_error(positions in distributions(), at in any::<prop::sample::Index>()) {
            let payload = Distribution::encode_all(&positions);
            let count = positions.len() as u32;
            let cut = Bytes::copy_from_slice(&payload[..at.index(payload.len())]);
            prop_assert_eq!(Distribution::decode_all(&cut, count), Err(DistributionError::Truncated));
            let longer = Bytes::from([&payload[..], &[0]].concat());
            prop_assert_eq!(Distribution::decode_all(&longer, count), Err(DistributionError::Trailing(1)));
        }

        #[test]
        fn any_bytes_are_distributions_or_an_error(payload in prop::collection::vec(any::<u8>(), 0..200), count in any::<u32>()) {
            if let Ok(positions) = Distribution::decode_all(&Bytes::from(payload), count) {
                prop_assert_eq!(positions.len() as u32, count);
            }
        }
    }

    // spec: extensions 5.2
    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let position = one(&[3, 300], &[0.5, 0.25], 0.25).unwrap();
        let expected = [
            &[2, 0, 0, 0, 3, 0xA9, 2][..],
            &0.5_f32.to_le_bytes(),
            &0.25_f32.to_le_bytes(),
            &0.25_f32.to_le_bytes(),
        ];
        assert_eq!(Distribution::encode_all(&[position]), expected.concat());
    }

    // spec: extensions 5.3
    #[test]
    fn what_is_negative_or_not_finite_is_no_probability() {
        for value in [-0.1, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(matches!(one(&[1, 2], &[0.1, value], 0.1), Err(DistributionError::Value(_))));
            assert!(matches!(one(&[1, 2], &[0.1, 0.2], value), Err(DistributionError::Value(_))));
        }
    }

    // spec: extensions 5.4
    #[test]
    fn more_than_1_is_an_error_but_for_rounding() {
        assert!(one(&[1, 2], &[0.6, 0.4], 0.00005).is_ok());
        assert!(matches!(one(&[1, 2], &[0.6, 0.4], 0.001), Err(DistributionError::Sum(_))));
        assert!(matches!(one(&[1, 2], &[0.6, 0.5], 0.0), Err(DistributionError::Sum(_))));
    }

    // spec: extensions 5.5
    #[test]
    fn an_id_comes_once_and_in_order() {
        assert_eq!(one(&[1, 1], &[0.1, 0.1], 0.0), Err(DistributionError::Order(1)));
        assert_eq!(one(&[2, 1], &[0.1, 0.1], 0.0), Err(DistributionError::Order(1)));
        let twice = [&[2, 0, 0, 0, 7, 0][..], &[0; 12]].concat();
        assert_eq!(Distribution::decode_all(&Bytes::from(twice), 1), Err(DistributionError::Order(7)));
    }

    #[test]
    fn counts_and_ids_that_the_payload_cannot_hold_are_errors() {
        let many = Bytes::from([&u32::MAX.to_le_bytes()[..], &[1; 64]].concat());
        assert_eq!(Distribution::decode_all(&many, 1), Err(DistributionError::Truncated));
        let long = Bytes::from([&[1, 0, 0, 0][..], &[0xFF; 5], &[0; 8]].concat());
        assert_eq!(Distribution::decode_all(&long, 1), Err(DistributionError::Varint));
        let beyond = Bytes::from([&[2, 0, 0, 0][..], &[0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 1], &[0; 12]].concat());
        assert_eq!(Distribution::decode_all(&beyond, 1), Err(DistributionError::Varint));
        let padded = Bytes::from([&[1, 0, 0, 0][..], &[0x83, 0x00], &[0; 8]].concat());
        assert_eq!(Distribution::decode_all(&padded, 1), Err(DistributionError::Varint));
        assert_eq!(Distribution::decode_all(&Bytes::new(), 0), Err(DistributionError::Empty));
        assert!(one(&[], &[], 1.0).is_err() && one(&[1], &[], 1.0).is_err());
    }
}
