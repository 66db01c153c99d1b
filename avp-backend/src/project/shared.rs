//! Which tokens of one vocabulary mean the same in another: [`SharedTokens`].

use std::collections::HashMap;

use avp_wire::vocabulary::SharedPairs;

use super::token_hashes;
use crate::{BackendError, TextCodec};

/// Pairs of tokens of a source and a target vocabulary that stand for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedTokens {
    /// Both have the same tokenizer: the first so many ids, which differ from more only by padding.
    Same(usize),
    /// `(source, target)`, ascending by the source's id. Several of the source may stand for one of the target.
    Pairs(Vec<(u32, u32)>),
}

impl SharedTokens {
    /// Tokens whose strings are equal as they stand: what rule 5 of the negotiation counts, and the SDK projects by.
    #[must_use]
    pub fn by_string(source: &HashMap<String, u32>, target: &HashMap<String, u32>) -> Self {
        let pair = |(token, &id): (&String, &u32)| Some((id, *target.get(token)?));
        Self::of(source.iter().filter_map(pair))
    }

    /// Tokens that stand for the same in both: they write the same bytes, or are control tokens of one name.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] where what a token writes is not known: see [`TextCodec::inner_pieces`].
    pub fn by_meaning(source: &dyn TextCodec, target: &dyn TextCodec) -> Result<Self, BackendError> {
        let shared = SharedPairs::between(&token_hashes(source)?, &token_hashes(target)?);
        Ok(Self::Pairs(shared.pairs().to_vec()))
    }

    fn of(pairs: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut pairs: Vec<(u32, u32)> = pairs.collect();
        pairs.sort_unstable();
        Self::Pairs(pairs)
    }

    /// Number of the source's tokens that the target shares.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Same(count) => *count,
            Self::Pairs(pairs) => pairs.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The target's id of a token of the source, where it has it.
    #[must_use]
    pub fn target_of(&self, source: u32) -> Option<u32> {
        match self {
            Self::Same(count) => ((source as usize) < *count).then_some(source),
            Self::Pairs(pairs) => {
                let found = pairs.binary_search_by_key(&source, |pair| pair.0).ok()?;
                pairs.get(found).map(|pair| pair.1)
            }
        }
    }

    /// The source's logits, or probabilities, of the shared tokens, in the order of the pairs.
    pub(super) fn pick(&self, logits: &[f32]) -> Option<Vec<f32>> {
        match self {
            Self::Same(count) => logits.get(..*count).map(<[f32]>::to_vec),
            Self::Pairs(pairs) => pairs.iter().map(|(id, _)| logits.get(*id as usize).copied()).collect(),
        }
    }

    /// The target's id of the shared token number `index`.
    pub(super) fn target(&self, index: u32) -> u32 {
        match self {
            Self::Same(_) => index,
            Self::Pairs(pairs) => pairs.get(index as usize).map_or(index, |pair| pair.1),
        }
    }
}

/// The target's ids of shared tokens, each once and ascending: the places of a distribution over them.
pub(super) enum Targets {
    Same,
    Places {
        ids: Vec<u32>,
        /// The place of each shared token.
        of_shared: Vec<usize>,
    },
}

impl Targets {
    pub(super) fn of(shared: &SharedTokens) -> Self {
        let SharedTokens::Pairs(pairs) = shared else { return Self::Same };
        let mut order: Vec<(u32, usize)> =
            pairs.iter().enumerate().map(|(index, pair)| (pair.1, index)).collect();
        order.sort_unstable();
        let mut ids: Vec<u32> = Vec::with_capacity(order.len());
        let mut of_shared = vec![0; order.len()];
        for (id, index) in order {
            if ids.last() != Some(&id) {
                ids.push(id);
            }
            of_shared[index] = ids.len() - 1;
        }
        Self::Places { ids, of_shared }
    }

    pub(super) fn id(&self, place: usize) -> u32 {
        match self {
            // No vocabulary has more tokens than ids.
            Self::Same => place as u32,
            Self::Places { ids, .. } => ids[place],
        }
    }

    /// The probability at each place, of those of the shared tokens: of several that stand for one, the sum.
    pub(super) fn sums(&self, of_shared_tokens: impl IntoIterator<Item = f32>) -> Vec<f32> {
        match self {
            Self::Same => of_shared_tokens.into_iter().collect(),
            Self::Places { ids, of_shared } => {
                let mut sums = vec![0.0; ids.len()];
                of_shared.iter().zip(of_shared_tokens).for_each(|(&place, p)| sums[place] += p);
                sums
            }
        }
    }
}
