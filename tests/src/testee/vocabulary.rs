//! Token hashes: payloads, fingerprints, and what two vocabularies have in common.

use avp_wire::vocabulary::{
    HashedToken, Meaning, SharedPairs, TokenHashes, VocabularyError, meaning_hash, string_hash,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::error::Failure;
use super::form::{Hex, read};

#[derive(Deserialize)]
struct Payload {
    payload: Hex,
    #[serde(default)]
    announced: Option<Hex>,
}

pub(super) fn decode(fields: Value) -> Answer {
    let Payload { payload: Hex(payload), announced } = read(fields)?;
    let vocabulary = TokenHashes::decode(&payload)?;
    if let Some(Hex(announced)) = announced {
        let announced = announced.as_ref().try_into();
        vocabulary.check(announced.map_err(|_| Failure::invalid("a fingerprint has 32 bytes"))?)?;
    }
    let shown = |token: &HashedToken| json!([token.id, hash(token.meaning), hash(token.string)]);
    let tokens: Vec<Value> = vocabulary.tokens().iter().map(shown).collect();
    Ok(json!({ "tokens": tokens, "fingerprint": hex::encode(vocabulary.fingerprint()) }))
}

/// A hash as its bytes in a payload.
fn hash(value: u64) -> String {
    hex::encode(value.to_le_bytes())
}

/// What a token writes, or what it is called.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Stated {
    Text(Hex),
    Name(String),
}

impl Stated {
    fn hash(&self) -> u64 {
        meaning_hash(match self {
            Self::Text(Hex(bytes)) => Meaning::Text(bytes),
            Self::Name(name) => Meaning::Name(name),
        })
    }
}

#[derive(Deserialize)]
struct Token {
    id: u32,
    string: String,
    #[serde(flatten)]
    meaning: Stated,
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<Token>,
}

pub(super) fn encode(fields: Value) -> Answer {
    let Tokens { tokens } = read(fields)?;
    let hashed = |token: Token| HashedToken {
        id: token.id,
        meaning: token.meaning.hash(),
        string: string_hash(&token.string),
    };
    let vocabulary = TokenHashes::new(tokens.into_iter().map(hashed))?;
    Ok(json!({
        "payload": hex::encode(vocabulary.encode()), "fingerprint": hex::encode(vocabulary.fingerprint()),
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Hashed {
    Text(Hex),
    Name(String),
    String(String),
}

pub(super) fn hash_token(fields: Value) -> Answer {
    let value = match read(fields)? {
        Hashed::Text(text) => Stated::Text(text).hash(),
        Hashed::Name(name) => Stated::Name(name).hash(),
        Hashed::String(string) => string_hash(&string),
    };
    Ok(json!({ "hash": hash(value) }))
}

#[derive(Deserialize)]
struct Pair {
    source: Hex,
    target: Hex,
}

pub(super) fn shared(fields: Value) -> Answer {
    let Pair { source: Hex(source), target: Hex(target) } = read(fields)?;
    let shared = SharedPairs::between(&TokenHashes::decode(&source)?, &TokenHashes::decode(&target)?);
    Ok(json!({ "pairs": shared.pairs(), "strings": shared.strings() }))
}

impl From<VocabularyError> for Failure {
    fn from(error: VocabularyError) -> Self {
        Self::refused(error.code(), error)
    }
}
