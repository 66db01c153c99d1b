//! A model's vocabulary as other models are told of it.

use avp_wire::vocabulary::{HashedToken, Meaning, TokenHashes, meaning_hash, string_hash};

use crate::{BackendError, TextCodec};

/// The tokens of a vocabulary by what they stand for: they write the same bytes, or are control tokens of one name.
///
/// # Errors
/// [`BackendError::Unsupported`] where what a token writes is not known: see [`TextCodec::inner_pieces`].
pub fn token_hashes(codec: &dyn TextCodec) -> Result<TokenHashes, BackendError> {
    let pieces = codec.inner_pieces()?;
    let mut vocab: Vec<(u32, String)> = codec.vocab().into_iter().map(|(token, id)| (id, token)).collect();
    // A tokenizer may know one token by several names.
    vocab.sort_unstable();
    vocab.dedup_by_key(|token| token.0);
    let token = |(id, token): &(u32, String)| {
        let meaning = match pieces.get(*id) {
            [] => Meaning::Name(token),
            piece => Meaning::Text(piece),
        };
        HashedToken { id: *id, meaning: meaning_hash(meaning), string: string_hash(token) }
    };
    let tokens = TokenHashes::new(vocab.iter().map(token));
    tokens.map_err(|error| BackendError::Tokenizer(error.to_string()))
}
