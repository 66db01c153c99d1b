//! Which tokens two models have in common, for both ways to find out: from a peer, and within a process.
//!
//! `rows` are those of the two tables, the source's first.

use avp_backend::{MapProjection, ProjectionMap, SharedTokens};
use avp_handshake::{MIN_SHARED_TOKENS, ModelIdentity};
use avp_wire::vocabulary::SharedPairs;

/// Whether two models are known to have one tokenizer.
pub(crate) fn has_same_tokenizer(a: &ModelIdentity, b: &ModelIdentity) -> bool {
    !a.tokenizer_hash.is_empty() && a.tokenizer_hash == b.tokenizer_hash
}

/// What is known without comparing vocabularies: all tokens where there is one tokenizer, else those of a map.
pub(super) fn known(
    has_same_tokenizer: bool,
    rows: [usize; 2],
    map: Option<ProjectionMap>,
) -> Option<SharedTokens> {
    if has_same_tokenizer {
        return Some(SharedTokens::Same(rows[0].min(rows[1])));
    }
    match map?.projection {
        MapProjection::Vocabulary(shared) => Some(shared),
        MapProjection::Linear(_) => None,
    }
}

/// What a comparison of vocabularies has found, or why that is too little.
pub(super) fn enough(pairs: &SharedPairs, rows: [usize; 2]) -> Result<SharedTokens, String> {
    let strings = pairs.strings();
    if strings < MIN_SHARED_TOKENS {
        return Err(format!(
            "the models have {strings} token strings in common, and it takes {MIN_SHARED_TOKENS}"
        ));
    }
    // A tokenizer may know tokens for which a table has no rows.
    let has_rows =
        |&(source, target): &(u32, u32)| (source as usize) < rows[0] && (target as usize) < rows[1];
    Ok(SharedTokens::Pairs(pairs.pairs().iter().copied().filter(has_rows).collect()))
}
