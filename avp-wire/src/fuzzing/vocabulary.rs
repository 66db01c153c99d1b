//! What is said of vocabularies: distributions over one, and its tokens as hashes.

use alloc::vec::Vec;

use bytes::Bytes;

use crate::Distribution;
use crate::vocabulary::{HashedToken, SharedPairs, TokenHashes};

/// The first byte is the number of positions, the rest is the payload. Distributions that are taken are written back as
/// they were, and take no more memory than the payload bears out.
pub fn distribution(data: &[u8]) {
    let Some((&count, payload)) = data.split_first() else { return };
    let payload = Bytes::copy_from_slice(payload);
    let count = u32::from(count);
    let Ok(positions) = Distribution::decode_all(&payload, count) else { return };
    assert_eq!(u32::try_from(positions.len()), Ok(count));
    assert_eq!(Distribution::encode_all(&positions), payload);
    let tokens: usize = positions.iter().map(|position| position.ids().len()).sum();
    assert!(tokens * 5 + positions.len() * 8 <= payload.len());
    for position in &positions {
        assert!(!position.ids().is_empty() && position.ids().is_sorted_by(|a, b| a < b));
        let values = position.probabilities().iter().copied().chain([position.left_out()]);
        assert!(values.clone().all(|value| (0.0..1.001).contains(&value)));
        assert!(values.map(f64::from).sum::<f64>() < 1.001);
        let (ids, probabilities) = (position.ids().to_vec(), position.probabilities().to_vec());
        assert_eq!(Distribution::new(ids, probabilities, position.left_out()).as_ref(), Ok(position));
    }
    for other in [count - 1, count + 1, u32::MAX] {
        assert!(Distribution::decode_all(&payload, other).is_err());
    }
}

/// Token hashes that are taken are written back as they were, their fingerprint is that of the payload, and compared with
/// themselves every token stands for one of its meaning.
pub fn vocabulary(data: &[u8]) {
    let Ok(vocabulary) = TokenHashes::decode(&Bytes::copy_from_slice(data)) else { return };
    assert_eq!(vocabulary.encode(), data);
    let fingerprint = blake3::hash(data);
    assert_eq!(vocabulary.fingerprint(), *fingerprint.as_bytes());
    assert_eq!(vocabulary.check(fingerprint.as_bytes()), Ok(()));
    let tokens = vocabulary.tokens();
    assert!(!tokens.is_empty() && tokens.len() * 17 + 4 <= data.len());
    assert!(tokens.is_sorted_by(|a, b| a.id < b.id));
    assert_eq!(TokenHashes::new(tokens.iter().rev().copied()).as_ref(), Ok(&vocabulary));

    let shared = SharedPairs::between(&vocabulary, &vocabulary);
    assert_eq!(shared.pairs().len(), tokens.len());
    let find =
        |id: u32| tokens.binary_search_by_key(&id, |token| token.id).ok().and_then(|at| tokens.get(at));
    for (token, &(source, target)) in tokens.iter().zip(shared.pairs()) {
        let same = |other: &HashedToken| other.meaning == token.meaning && other.string == token.string;
        assert!(source == token.id && target <= source && find(target).is_some_and(same));
    }
    let mut strings: Vec<u64> = tokens.iter().map(|token| token.string).collect();
    strings.sort_unstable();
    strings.dedup();
    assert_eq!(shared.strings(), strings.len());
}
