//! Finding out which tokens a peer's model has too (docs/spec/exchange.md, 6): the sender's side.

use std::sync::Arc;

use avp_backend::{ProjectionMap, SharedTokens};
use avp_handshake::Capabilities;
use avp_handshake::fingerprint::Fingerprint;
use avp_transport::Transfer;
use avp_wire::ext::FrameKind;
use avp_wire::vocabulary::{SharedPairs, TokenHashes, VocabularyError};
use avp_wire::{Frame, Metadata, ext};

use super::{shared, vocabularies};
use crate::Agent;
use crate::ask_error::AskError;
use crate::asking::{blocking, reply, send};

/// Which tokens of the agent's model the peer's has.
pub(crate) enum Agreed {
    /// Enough of them; with the number of equal token strings, where that was counted.
    Tokens(Arc<SharedTokens>, Option<usize>),
    /// Too few, or nobody can say: why.
    Nothing(String),
}

/// All tokens where the tokenizers are equal; else those of the map that is at hand, or of the peer's vocabulary as it is known
/// from before, or as the peer gives it now. `stamp` says between whom frames travel, `open` begins a transfer.
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
    let rows = [agent.backend().info().vocab_size, theirs.rows as usize];
    if let Some(shared) = shared::known(has_same_tokenizer, rows, map) {
        return Ok(Agreed::Tokens(Arc::new(shared), None));
    }
    let here = agent.clone();
    let fingerprint = theirs.fingerprint;
    let compared = blocking(move || here.compared(fingerprint)).await?;
    let pairs = match compared {
        Some(pairs) => pairs,
        None => match ask(agent, fingerprint, stamp, open()?).await? {
            Some(pairs) => pairs,
            None => return nothing("it is not known what this model's tokens mean"),
        },
    };
    Ok(match shared::enough(&pairs, rows) {
        Ok(shared) => Agreed::Tokens(Arc::new(shared), Some(pairs.strings())),
        Err(why) => Agreed::Nothing(why),
    })
}

/// Asks the peer for its vocabulary and holds it against the fingerprint that its hello announced.
async fn ask(
    agent: &Agent,
    theirs: Fingerprint,
    stamp: &Metadata,
    mut lane: Transfer,
) -> Result<Option<Arc<SharedPairs>>, AskError> {
    send(&lane, vocabulary_frame(stamp, lane.id(), Vec::new())).await?;
    let reply = reply(&mut lane).await?;
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
