//! Generation within the bounds of a grammar.

use crate::sample::{Sampler, argmax};
use crate::{Backend, GenerateError, GenerateOptions, GrammarConstraint, GrammarError, NonFinite};

/// A grammar on one generation, and what ends that.
pub(crate) struct Bounds {
    constraint: GrammarConstraint,
    stop_tokens: Vec<u32>,
}

impl Bounds {
    /// Those of `options`, where there are any.
    pub(crate) fn new(
        backend: &dyn Backend,
        options: &GenerateOptions,
    ) -> Result<Option<Self>, GenerateError> {
        let Some(grammar) = &options.grammar else { return Ok(None) };
        let stop_tokens = backend.info().stop_tokens.iter().chain(&options.stop_tokens).copied().collect();
        let constraint = grammar.constraint(backend.codec().pieces()?)?;
        Ok(Some(Self { constraint, stop_tokens }))
    }

    /// The next token; `None` where the text is over and no stop token is there to say so. `written` were chosen before.
    ///
    /// Greedily the likeliest token is tried first, and all others are masked where it is refused: the outcome is the same.
    /// A random choice is made among what the mask leaves, because top-k and top-p of all tokens are not those of the allowed
    /// ones; to draw first and again where that is refused would be another distribution.
    pub(crate) fn choose(
        &mut self,
        sampler: &mut Sampler,
        logits: &mut [f32],
        written: usize,
    ) -> Result<Option<u32>, GenerateError> {
        let non_finite = |NonFinite| GenerateError::NonFinite { token: written };
        let best = argmax(logits).map_err(non_finite)?;
        let may_end = self.constraint.may_end();
        if sampler.is_greedy() {
            let is_allowed = match self.stop_tokens.contains(&best) {
                true => may_end,
                false => self.constraint.allows(best)?,
            };
            if is_allowed {
                return Ok(Some(best));
            }
        }
        self.mask(logits, may_end)?;
        if logits.iter().all(|logit| *logit == f32::NEG_INFINITY) {
            return if may_end { Ok(None) } else { Err(GenerateError::NoToken { token: written }) };
        }
        sampler.next(logits).map(Some).map_err(non_finite)
    }

    /// The text goes on with `token`.
    pub(crate) fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        self.constraint.accept(token)
    }

    /// As [`GrammarConstraint::mask`], but stop tokens keep their logits where the text may end, and nowhere else.
    fn mask(&mut self, logits: &mut [f32], may_end: bool) -> Result<(), GrammarError> {
        let index = |id: u32| usize::try_from(id).unwrap_or(usize::MAX);
        let stops: Vec<(usize, f32)> = self
            .stop_tokens
            .iter()
            .filter_map(|&id| Some((index(id), *logits.get(index(id))?)))
            .map(|(at, logit)| (at, if may_end { logit } else { f32::NEG_INFINITY }))
            .collect();
        self.constraint.mask(logits)?;
        for (at, stop) in stops {
            if let Some(logit) = logits.get_mut(at) {
                *logit = stop;
            }
        }
        Ok(())
    }
}
