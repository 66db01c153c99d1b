//! Tokens of a vocabulary as hashes, by which two models find out which of them stand for the same
//! (docs/spec/extensions.md, 6).

use alloc::vec::Vec;

use bytes::Bytes;

use crate::code::{ErrorCode, Fault};
use crate::varint::{Reader, write_varint};

/// Most tokens of a vocabulary.
pub const MAX_TOKENS: usize = 1 << 22;
/// Bytes of the two hashes of a token.
const HASHES: usize = 16;

/// What a token stands for, whatever a tokenizer calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// The bytes that it writes: `Ġthe`, `▁the` and ` the` are one, and so are `<0x0A>` and `Ċ`.
    Text(&'a [u8]),
    /// What it is called, where it writes nothing: a control token.
    Name(&'a str),
}

/// Hash of what a token stands for.
#[must_use]
pub fn meaning_hash(meaning: Meaning<'_>) -> u64 {
    match meaning {
        Meaning::Text(bytes) => hash(b"avp.token.text\0", bytes),
        Meaning::Name(name) => hash(b"avp.token.name\0", name.as_bytes()),
    }
}

/// Hash of a token's string as it stands in the vocabulary.
#[must_use]
pub fn string_hash(token: &str) -> u64 {
    hash(b"avp.token.string\0", token.as_bytes())
}

/// The first 8 bytes of BLAKE3, little-endian.
fn hash(domain: &[u8], bytes: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(domain).update(bytes);
    let digest = hasher.finalize();
    digest.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

/// A token as a peer is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedToken {
    /// Its id.
    pub id: u32,
    /// [`meaning_hash`].
    pub meaning: u64,
    /// [`string_hash`].
    pub string: u64,
}

/// The tokens of one vocabulary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHashes(Vec<HashedToken>);

impl TokenHashes {
    /// The vocabulary of these tokens, in any order.
    ///
    /// # Errors
    /// [`VocabularyError`] if there are none or too many, or an id comes twice.
    pub fn new(tokens: impl IntoIterator<Item = HashedToken>) -> Result<Self, VocabularyError> {
        let mut tokens: Vec<HashedToken> = tokens.into_iter().collect();
        tokens.sort_unstable_by_key(|token| token.id);
        if tokens.is_empty() || tokens.len() > MAX_TOKENS {
            return Err(VocabularyError::Count(tokens.len()));
        }
        let mut followed = tokens.iter().zip(tokens.iter().skip(1));
        match followed.find(|(token, next)| token.id == next.id) {
            Some((token, _)) => Err(VocabularyError::Repeated(token.id)),
            None => Ok(Self(tokens)),
        }
    }

    /// The tokens, by id.
    #[must_use]
    pub fn tokens(&self) -> &[HashedToken] {
        &self.0
    }

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.0.len() * (HASHES + 1));
        // No more than MAX_TOKENS.
        out.extend_from_slice(&u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_le_bytes());
        let mut before = 0;
        for token in &self.0 {
            write_varint(token.id.wrapping_sub(before), &mut out);
            before = token.id;
        }
        for value in self.0.iter().map(|token| token.meaning).chain(self.0.iter().map(|token| token.string)) {
            out.extend_from_slice(&value.to_le_bytes());
        }
        out
    }

    /// Reads a payload. Takes memory as it bears it out.
    ///
    /// # Errors
    /// [`VocabularyError`] naming what is wrong.
    pub fn decode(payload: &Bytes) -> Result<Self, VocabularyError> {
        let mut reader = Reader::new(payload);
        let truncated = VocabularyError::Truncated;
        let count = u32::from_le_bytes(reader.take().ok_or(truncated)?);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count == 0 || count > MAX_TOKENS {
            return Err(VocabularyError::Count(count));
        }
        if count > reader.len() / (HASHES + 1) {
            return Err(truncated);
        }
        let mut tokens = Vec::with_capacity(count);
        let mut id = 0_u32;
        for index in 0..count {
            let difference = reader.varint(truncated, VocabularyError::Varint)?;
            if difference == 0 && index > 0 {
                return Err(VocabularyError::Repeated(id));
            }
            id = id.checked_add(difference).ok_or(VocabularyError::Varint)?;
            tokens.push(HashedToken { id, meaning: 0, string: 0 });
        }
        for token in &mut tokens {
            token.meaning = u64::from_le_bytes(reader.take().ok_or(truncated)?);
        }
        for token in &mut tokens {
            token.string = u64::from_le_bytes(reader.take().ok_or(truncated)?);
        }
        match reader.len() {
            0 => Ok(Self(tokens)),
            rest => Err(VocabularyError::Trailing(rest)),
        }
    }

    /// BLAKE3 of the payload: what a hello announces.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        *blake3::hash(&self.encode()).as_bytes()
    }

    /// Holds the vocabulary against what its owner announced.
    ///
    /// # Errors
    /// [`VocabularyError::Mismatch`].
    pub fn check(&self, fingerprint: &[u8; 32]) -> Result<(), VocabularyError> {
        if self.fingerprint() == *fingerprint { Ok(()) } else { Err(VocabularyError::Mismatch) }
    }
}

/// The tokens that two vocabularies have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedPairs {
    strings: usize,
    pairs: Vec<(u32, u32)>,
}

impl SharedPairs {
    /// Those of `source` that `target` has too.
    ///
    /// Where several tokens of the target stand for the same, it is the one of equal string; else one that is no byte
    /// (`<0x41>`), which a tokenizer does not make of a text if it has another; else the first.
    #[must_use]
    pub fn between(source: &TokenHashes, target: &TokenHashes) -> Self {
        let by_meaning = Meanings::of(target);
        let pair = |token: &HashedToken| Some((token.id, by_meaning.find(token)?));
        let pairs = source.0.iter().filter_map(pair).collect();
        let strings = |tokens: &TokenHashes| {
            let mut strings: Vec<u64> = tokens.0.iter().map(|token| token.string).collect();
            strings.sort_unstable();
            strings.dedup();
            strings
        };
        Self { strings: in_both(&strings(source), &strings(target)), pairs }
    }

    /// How many token strings are equal as they stand: what rule 5 counts.
    #[must_use]
    pub fn strings(&self) -> usize {
        self.strings
    }

    /// `(source, target)`, ascending by the source's id.
    #[must_use]
    pub fn pairs(&self) -> &[(u32, u32)] {
        &self.pairs
    }
}

/// A vocabulary's tokens by what they stand for.
struct Meanings {
    /// Meaning, string and id, ascending.
    tokens: Vec<(u64, u64, u32)>,
    /// For each meaning, ascending, the token for those of another string.
    any: Vec<(u64, u32)>,
}

impl Meanings {
    fn of(vocabulary: &TokenHashes) -> Self {
        let token = |token: &HashedToken| (token.meaning, token.string, token.id);
        let mut tokens: Vec<_> = vocabulary.0.iter().map(token).collect();
        tokens.sort_unstable();
        let bytes = byte_tokens();
        let is_byte = |string: &u64| bytes.binary_search(string).is_ok();
        let mut any: Vec<(u64, bool, u32)> =
            tokens.iter().map(|(meaning, string, id)| (*meaning, is_byte(string), *id)).collect();
        any.sort_unstable();
        any.dedup_by_key(|(meaning, ..)| *meaning);
        Self { tokens, any: any.into_iter().map(|(meaning, _, id)| (meaning, id)).collect() }
    }

    /// The id of the token that `other` stands for.
    fn find(&self, other: &HashedToken) -> Option<u32> {
        let same = (other.meaning, other.string);
        let at = self.tokens.partition_point(|(meaning, string, _)| (*meaning, *string) < same);
        if let Some((meaning, string, id)) = self.tokens.get(at)
            && (*meaning, *string) == same
        {
            return Some(*id);
        }
        let at = self.any.binary_search_by_key(&other.meaning, |(meaning, _)| *meaning).ok()?;
        self.any.get(at).map(|(_, id)| *id)
    }
}

/// How many values two ascending lists have in common.
fn in_both(a: &[u64], b: &[u64]) -> usize {
    let mut rest = b.iter().peekable();
    let is_in_b = |value: &&u64| {
        while rest.next_if(|other| *other < *value).is_some() {}
        rest.peek() == Some(value)
    };
    a.iter().filter(is_in_b).count()
}

/// Hashes of the strings of SentencePiece's byte tokens, ascending.
fn byte_tokens() -> Vec<u64> {
    let name = |byte: u8| {
        let digit =
            |value: u8| char::from_digit(u32::from(value), 16).map_or('0', |c| c.to_ascii_uppercase());
        let mut name = alloc::string::String::from("<0x");
        name.push(digit(byte >> 4));
        name.push(digit(byte & 0xF));
        name.push('>');
        string_hash(&name)
    };
    let mut hashes: Vec<u64> = (0..=u8::MAX).map(name).collect();
    hashes.sort_unstable();
    hashes
}

/// Why something is not a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// No tokens, or more than any vocabulary has.
    #[error("a vocabulary of {0} tokens; there are 1 to {MAX_TOKENS}")]
    Count(
        /// How many.
        usize,
    ),
    /// The payload ends too early.
    #[error("the payload ends within the vocabulary")]
    Truncated,
    /// The payload goes on after the last hash.
    #[error("{0} bytes follow the vocabulary")]
    Trailing(
        /// How many.
        usize,
    ),
    /// An id that is no u32, or not in its shortest form.
    #[error("a token id is longer than 32 bits, or written in more bytes than it needs")]
    Varint,
    /// An id that comes twice.
    #[error("token id {0} is repeated")]
    Repeated(
        /// The id.
        u32,
    ),
    /// The vocabulary is not the one that was announced.
    #[error("the vocabulary is not the one whose fingerprint the hello announces")]
    Mismatch,
    /// Another frame came instead.
    #[error("another frame came instead of it")]
    OtherFrame,
}

impl VocabularyError {
    /// The stable code of this error.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Mismatch => ErrorCode::VocabularyMismatch,
            Self::OtherFrame => ErrorCode::UnexpectedFrame,
            _ => ErrorCode::InvalidVocabulary,
        }
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

    fn token(id: u32, text: &str, string: &str) -> HashedToken {
        HashedToken { id, meaning: meaning_hash(Meaning::Text(text.as_bytes())), string: string_hash(string) }
    }

    fn vocabularies() -> impl Strategy<Value = TokenHashes> {
        let token = (any::<u32>(), 0_u64..40, 0_u64..40);
        let tokens = prop::collection::btree_map(any::<u32>(), token, 1..40);
        tokens.prop_map(|tokens| {
            let token = |(id, (_, meaning, string))| HashedToken { id, meaning, string };
            TokenHashes::new(tokens.into_iter().map(token)).unwrap()
        })
    }

    proptest! {
        // spec: extensions 6.1
        #[test]
        fn what_is_encoded_is_decoded(vocabulary in vocabularies()) {
            let payload = Bytes::from(vocabulary.encode());
            prop_assert_eq!(TokenHashes::decode(&payload), Ok(vocabulary));
        }

        // spec: extensions 6.4
        #[test]
        fn every_cut_and_every_byte_after_the_end_is_an_error(vocabulary in vocabularies(), at in any::<prop::sample::Index>()) {
            let payload = vocabulary.encode();
            let cut = Bytes::copy_from_slice(&payload[..at.index(payload.len())]);
            prop_assert_eq!(TokenHashes::decode(&cut), Err(VocabularyError::Truncated));
            let longer = Bytes::from([&payload[..], &[0]].concat());
            prop_assert_eq!(TokenHashes::decode(&longer), Err(VocabularyError::Trailing(1)));
        }

        #[test]
        fn any_bytes_are_a_vocabulary_or_an_error(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(vocabulary) = TokenHashes::decode(&Bytes::from(payload)) {
                prop_assert!(!vocabulary.tokens().is_empty());
            }
        }

        #[test]
        fn pairs_have_equal_meanings_and_miss_none(a in vocabularies(), b in vocabularies()) {
            let shared = SharedPairs::between(&a, &b);
            let meaning = |vocabulary: &TokenHashes, id: u32| {
                vocabulary.tokens().iter().find(|token| token.id == id).unwrap().meaning
            };
            for (source, target) in shared.pairs() {
                prop_assert_eq!(meaning(&a, *source), meaning(&b, *target));
            }
            let has = |token: &&HashedToken| b.tokens().iter().any(|other| other.meaning == token.meaning);
            prop_assert_eq!(shared.pairs().len(), a.tokens().iter().filter(has).count());
            prop_assert!(shared.pairs().windows(2).all(|pairs| pairs[0].0 < pairs[1].0));
        }
    }

    // spec: extensions 6.1, extensions 6.2
    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let tokens =
            [HashedToken { id: 300, meaning: 2, string: 4 }, HashedToken { id: 3, meaning: 1, string: 3 }];
        let expected = [
            &[2, 0, 0, 0, 3, 0xA9, 2][..],
            &1_u64.to_le_bytes(),
            &2_u64.to_le_bytes(),
            &3_u64.to_le_bytes(),
            &4_u64.to_le_bytes(),
        ]
        .concat();
        let vocabulary = TokenHashes::new(tokens).unwrap();
        assert_eq!(vocabulary.encode(), expected);
        assert_eq!(vocabulary.fingerprint(), *blake3::hash(&expected).as_bytes());
        assert_eq!(vocabulary.check(&vocabulary.fingerprint()), Ok(()));
        assert_eq!(
            vocabulary.check(&[0; 32]).map_err(|error| error.code()),
            Err(ErrorCode::VocabularyMismatch)
        );
    }

    // spec: extensions 6.3
    #[test]
    fn hashes_are_told_apart_by_what_they_are_of() {
        let first = |text: &[u8]| u64::from_le_bytes(*blake3::hash(text).as_bytes().first_chunk().unwrap());
        assert_eq!(meaning_hash(Meaning::Text(b" the")), first(b"avp.token.text\0 the"));
        assert_eq!(meaning_hash(Meaning::Name("<s>")), first(b"avp.token.name\0<s>"));
        assert_eq!(string_hash("\u{120}the"), first("avp.token.string\0\u{120}the".as_bytes()));
    }

    // spec: extensions 6.4
    #[test]
    fn counts_and_ids_that_are_none_are_errors() {
        let decode = |bytes: &[u8]| TokenHashes::decode(&Bytes::copy_from_slice(bytes));
        assert_eq!(decode(&[0; 4]), Err(VocabularyError::Count(0)));
        assert_eq!(decode(&u32::MAX.to_le_bytes()), Err(VocabularyError::Count(u32::MAX as usize)));
        assert_eq!(decode(&[&[2, 0, 0, 0, 5, 0][..], &[0; 32]].concat()), Err(VocabularyError::Repeated(5)));
        let long = [&[1, 0, 0, 0][..], &[0xFF; 5], &[0; 16]].concat();
        assert_eq!(decode(&long), Err(VocabularyError::Varint));
        let padded = [&[1, 0, 0, 0][..], &[0x83, 0x00], &[0; 16]].concat();
        assert_eq!(decode(&padded), Err(VocabularyError::Varint));
        assert_eq!(TokenHashes::new([]), Err(VocabularyError::Count(0)));
        let twice = [token(1, "a", "a"), token(1, "b", "b")];
        assert_eq!(TokenHashes::new(twice), Err(VocabularyError::Repeated(1)));
    }

    #[test]
    fn tokens_meet_by_meaning_and_strings_are_counted_as_they_stand() {
        let bpe =
            TokenHashes::new([token(0, " the", "\u{120}the"), token(1, "\n", "\u{10a}"), token(2, "A", "A")]);
        let pieces = TokenHashes::new([
            token(3, "A", "<0x41>"),
            token(4, "\n", "<0x0A>"),
            token(5, " the", "\u{2581}the"),
            token(9, "A", "A"),
        ]);
        let (bpe, pieces) = (bpe.unwrap(), pieces.unwrap());
        let shared = SharedPairs::between(&bpe, &pieces);
        assert_eq!((shared.pairs(), shared.strings()), (&[(0, 5), (1, 4), (2, 9)][..], 1));
        // Both of the pieces that write an A become the one there is.
        let back = SharedPairs::between(&pieces, &bpe);
        assert_eq!(back.pairs(), [(3, 2), (4, 1), (5, 0), (9, 2)]);
        // A byte is not what a tokenizer makes of a text where there is another token.
        let other = TokenHashes::new([token(7, "A", "a letter")]).unwrap();
        assert_eq!(SharedPairs::between(&other, &pieces).pairs(), [(7, 9)]);
    }
}
