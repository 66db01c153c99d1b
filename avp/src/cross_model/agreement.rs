//! Finding out which tokens a peer's model has too (docs/spec/exchange.md, 6): the sender's side.

use std::sync::Arc;

use avp_backend::{MapProjection, ProjectionMap, SharedTokens};
use avp_handshake::fingerprint::Fingerprint;
use avp_handshake::{Capabilities, MIN_SHARED_TOKENS, Reject};
use avp_transport::Transfer;
use avp_wire::ext::FrameKind;
use avp_wire::vocabulary::{SharedPairs, TokenHashes, VocabularyError};
use avp_wire::{EncodeOptions, Frame, Metadata, ext};

use super::vocabularies;
use crate::Agent;
use crate::ask_error::AskError;

/// Which tokens of the agent's model the peer's has.
pub(crate) enum Agreed {
    /// Enough of them; with the number of equal token strings, where that was counted.
    Tokens(Arc<SharedTokens>, Option<usize>),
    /// Too few, or nobody can say: why.
    Nothing(String),
}

/// All tokens where the tokenizers are equal; else those of the map that is at hand, or of the peer's vocabulary as it is known from before, or as the peer
/// gives it now. `stamp` says between whom frames travel, `open` begins a transfer.
pub(crate) async fn agree(
    agent: &Agent,
    peer: Option<&Capabilities>,
    has_same_tokenizer: bool,
    map: Option<ProjectionMap>,
    stamp: &Metadata,
    open: impl FnOnce() -> Result<Transfer, AskError>,
) -> Result<Agreed, AskError> {
    let nothing = |why: &str| Ok(Agreed::Nothing(why.to_owned()));
    let Some(theirs) = peer.and_then(|peer| peer.vocabulary) else {
        return nothing("the peer takes no distributions");
    };
    if has_same_tokenizer {
        let rows = agent.backend().info().vocab_size.min(theirs.rows as usize);
        return Ok(Agreed::Tokens(Arc::new(SharedTokens::Same(rows)), None));
    }
    if let Some(ProjectionMap { projection: MapProjection::Vocabulary(shared), .. }) = map {
        return Ok(Agreed::Tokens(Arc::new(shared), None));
    }
    let here = agent.clone();
    let fingerprint = theirs.fingerprint;
    let known = blocking(move || here.compared(fingerprint)).await?;
    let pairs = match known {
        Some(pairs) => pairs,
        None => match ask(agent, fingerprint, stamp, open()?).await? {
            Some(pairs) => pairs,
            None => return nothing("it is not known what this model's tokens mean"),
        },
    };
    let strings = pairs.strings();
    if strings < MIN_SHARED_TOKENS {
        return Ok(Agreed::Nothing(format!(
            "the models have {strings} token strings in common, and it takes {MIN_SHARED_TOKENS}"
        )));
    }
    // A tokenizer may know tokens for which a table has no rows.
    let rows = agent.backend().info().vocab_size;
    let has_rows = |pair: &(u32, u32)| (pair.0 as usize) < rows && pair.1 < theirs.rows;
    let pairs = pairs.pairs().iter().copied().filter(has_rows).collect();
    Ok(Agreed::Tokens(Arc::new(SharedTokens::Pairs(pairs)), Some(strings)))
}

/// Asks the peer for its vocabulary and holds it against the fingerprint that its hello announced.
async fn ask(
    agent: &Agent,
    theirs: Fingerprint,
    stamp: &Metadata,
    mut lane: Transfer,
) -> Result<Option<Arc<SharedPairs>>, AskError> {
    lane.send(vocabulary_frame(stamp, lane.id(), Vec::new()), &EncodeOptions::default()).await?;
    let reply = lane.recv().await?.ok_or(AskError::Closed)?;
    if let Some(reject) = Reject::from_frame(&reply) {
        return Err(reject.into());
    }
    if reply.kind() != Ok(Some(FrameKind::Vocabulary)) {
        return Err(VocabularyError::OtherFrame.into());
    }
    let agent = agent.clone();
    let compare = move || {
        let hashes = TokenHashes::decode(&reply.payload)?;
        hashes.check(theirs.as_bytes())?;
        if let Some(dir) = agent.cache_dir() {
            vocabularies::keep(dir, theirs, &reply.payload);
        }
        Ok(agent.compare(theirs, &hashes))
    };
    blocking(compare).await?
}

/// A frame that asks for a vocabulary, where the payload is empty, or has one.
pub(crate) fn vocabulary_frame(stamp: &Metadata, transfer: &str, payload: Vec<u8>) -> Frame {
    let mut metadata = stamp.clone();
    metadata.extra.insert(ext::KIND.to_owned(), FrameKind::Vocabulary.as_str().to_owned());
    metadata.extra.insert(ext::TRANSFER.to_owned(), transfer.to_owned());
    Frame::new(metadata, payload)
}

/// Runs what takes long on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AskError> {
    tokio::task::spawn_blocking(run).await.map_err(|_| AskError::Lost)
}
