//! Whether a transfer between two models is likely to be understood, judged for each one: [`GateOptions::assess`].
//!
//! Length, rank and validation are what the reference SDK looks at. The rest follows from what is shipped: a position carries
//! what one token says, so the tokens must be told apart, be among those shipped, and be all there is to say.

mod verdict;

use std::fmt;
use std::str::FromStr;

use avp_wire::Distribution;
use faer::{Mat, MatRef, Side};

pub use verdict::{GateReason, Verdict};

use super::Validation;
use crate::{NonFinite, SoftmaxMix};

/// What a [`Verdict`] against a transfer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateMode {
    /// Nothing is assessed.
    Off,
    /// It is told, and the transfer goes ahead.
    Advise,
    /// Text goes instead.
    #[default]
    Enforce,
}

impl GateMode {
    /// `off`, `advise` or `enforce`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Advise => "advise",
            Self::Enforce => "enforce",
        }
    }
}

impl fmt::Display for GateMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`GateMode`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no mode of the quality gate; there are off, advise and enforce")]
pub struct UnknownGateMode(String);

impl FromStr for GateMode {
    type Err = UnknownGateMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mode = [Self::Off, Self::Advise, Self::Enforce].into_iter().find(|mode| mode.as_str() == text);
        mode.ok_or_else(|| UnknownGateMode(text.to_owned()))
    }
}

/// What a transfer has to keep to. The defaults are in docs/spec/projection.md, 7.
#[derive(Clone, Debug, PartialEq)]
pub struct GateOptions {
    /// Most tokens of the prompt that the source has read: one position holds no long one.
    pub max_prompt_tokens: usize,
    /// Largest [`effective_rank`] of the hidden states that were shipped; `None` does not ask. The SDK's value is 0.8.
    pub max_effective_rank: Option<f32>,
    /// Largest entropy of a position, in nats.
    pub max_entropy: f32,
    /// Most probability mass of a position on tokens that are not shipped.
    pub max_left_out: f32,
    /// Least probability that the source has nothing to add to what the positions say.
    pub min_ending: f32,
    /// Least [`Validation::cosine`].
    pub min_cosine: f32,
    /// Largest [`Validation::perplexity`], where there is one.
    pub max_perplexity: f32,
}

impl Default for GateOptions {
    fn default() -> Self {
        Self {
            max_prompt_tokens: 300,
            max_effective_rank: None,
            max_entropy: 1.5,
            max_left_out: 0.05,
            min_ending: 0.5,
            min_cosine: 0.5,
            max_perplexity: 100.0,
        }
    }
}

/// What is known of a transfer before it is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TransferFacts {
    /// Tokens of the prompt that the source has read.
    pub prompt_tokens: Option<usize>,
    /// Entropy of the distribution that is shipped, in nats; the largest over positions.
    pub entropy: f32,
    /// Probability mass of tokens that are not shipped; the largest over positions.
    pub left_out: f32,
    /// Probability that the source ends its turn after the tokens that the positions say: see [`ending`].
    pub ending: Option<f32>,
    /// [`effective_rank`] of the hidden states.
    pub effective_rank: Option<f32>,
    /// What the projection between the two models is worth.
    pub validation: Option<Validation>,
}

impl TransferFacts {
    /// Entropy and left-out mass of what is shipped; the rest is unknown. Left-out mass counts as one token, so that the entropy
    /// is a lower bound.
    #[must_use]
    pub fn of_distributions(shipped: &[Distribution]) -> Self {
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
        Self {
            entropy: largest(&mut shipped.iter().map(entropy)),
            left_out: largest(&mut shipped.iter().map(Distribution::left_out)),
            ..Self::default()
        }
    }
}

fn entropy(distribution: &Distribution) -> f32 {
    let term = |p: f32| if p > 0.0 { -f64::from(p) * f64::from(p).ln() } else { 0.0 };
    let probabilities = distribution.probabilities().iter().copied();
    probabilities.chain([distribution.left_out()]).map(term).sum::<f64>() as f32
}

impl GateOptions {
    /// Everything that speaks against a transfer of these `facts`.
    #[must_use]
    pub fn assess(&self, facts: &TransferFacts) -> Verdict {
        let mut reasons = Vec::new();
        match facts.prompt_tokens {
            None => reasons.push(GateReason::PromptTokensUnknown),
            Some(tokens) if tokens > self.max_prompt_tokens => {
                reasons.push(GateReason::PromptTokens { tokens, limit: self.max_prompt_tokens });
            }
            Some(_) => {}
        }
        if let (Some(ratio), Some(limit)) = (facts.effective_rank, self.max_effective_rank)
            && is_above(ratio, limit)
        {
            reasons.push(GateReason::EffectiveRank { ratio, limit });
        }
        if is_above(facts.entropy, self.max_entropy) {
            reasons.push(GateReason::Entropy { nats: facts.entropy, limit: self.max_entropy });
        }
        if is_above(facts.left_out, self.max_left_out) {
            reasons.push(GateReason::LeftOut { mass: facts.left_out, limit: self.max_left_out });
        }
        match facts.ending {
            None => reasons.push(GateReason::EndingUnknown),
            Some(probability) if is_below(probability, self.min_ending) => {
                reasons.push(GateReason::Ending { probability, limit: self.min_ending });
            }
            Some(_) => {}
        }
        match &facts.validation {
            None => reasons.push(GateReason::Unvalidated),
            Some(validation) => reasons.extend(self.against(validation)),
        }
        Verdict { reasons }
    }

    /// What speaks against every transfer between two models.
    fn against(&self, validation: &Validation) -> impl Iterator<Item = GateReason> + use<> {
        let Validation { cosine, perplexity } = *validation;
        let low = is_below(cosine, self.min_cosine);
        let low = low.then_some(GateReason::Cosine { cosine, limit: self.min_cosine });
        let limit = self.max_perplexity;
        let high = perplexity.filter(|perplexity| is_above(*perplexity, limit));
        low.into_iter().chain(high.map(|perplexity| GateReason::Perplexity { perplexity, limit }))
    }
}

impl Validation {
    /// Whether nothing that was measured speaks against transfers between the two models.
    #[must_use]
    pub fn passes(&self, options: &GateOptions) -> bool {
        options.against(self).next().is_none()
    }
}

/// NaN is above and below every limit.
fn is_above(value: f32, limit: f32) -> bool {
    value.is_nan() || value > limit
}

fn is_below(value: f32, limit: f32) -> bool {
    value.is_nan() || value < limit
}

/// Probability that the next token is one of `stop_tokens`, by the logits `[vocab_size]` after what was said.
///
/// One position can carry an answer of one token, but of a sentence it carries the first word: a receiver that is given that
/// alone goes wrong, however sure the source was of it.
///
/// # Errors
/// [`NonFinite`] if a logit is NaN or infinite.
pub fn ending(logits: &[f32], stop_tokens: &[u32]) -> Result<f32, NonFinite> {
    let probabilities = super::dense(SoftmaxMix::from_logits(logits, 1.0, 0.0)?);
    let is_stop = |id: usize| stop_tokens.iter().any(|stop| *stop as usize == id);
    let stops = probabilities.iter().enumerate().filter(|(id, _)| is_stop(*id));
    Ok(stops.map(|(_, p)| f64::from(*p)).sum::<f64>() as f32)
}

/// How evenly hidden states `[n, dim]` spread over dimensions, from 0 to 1: the entropy of their normalised singular values over
/// that of equal ones, ln(min(n, dim)). 0 of fewer than two; NaN where a value is not finite.
///
/// Effective rank: Roy and Vetterli, 2007.
#[must_use]
pub fn effective_rank(hidden: &[f32], dim: usize) -> f32 {
    let rows = hidden.len().checked_div(dim).unwrap_or(0);
    let count = rows.min(dim);
    if count < 2 {
        return 0.0;
    }
    let states: Mat<f64> = Mat::from_fn(rows, dim, |row, column| f64::from(hidden[row * dim + column]));
    singular_values(states.as_ref()).map_or(f32::NAN, |values| {
        let sum: f64 = values.iter().sum();
        if sum == 0.0 {
            return 0.0;
        }
        let term = |value: &f64| -(value / sum) * (value / sum + 1e-12).ln();
        (values.iter().map(term).sum::<f64>() / (count as f64).ln()) as f32
    })
}

/// Roots of the eigenvalues of the smaller Gram matrix; `None` if there are none.
fn singular_values(matrix: MatRef<'_, f64>) -> Option<Vec<f64>> {
    let is_wide = matrix.nrows() <= matrix.ncols();
    let gram = if is_wide { matrix * matrix.transpose() } else { matrix.transpose() * matrix };
    let finite = (0..gram.nrows()).all(|i| gram[(i, i)].is_finite());
    let values = finite.then(|| gram.self_adjoint_eigenvalues(Side::Lower).ok())??;
    // Rounding leaves those that are zero on either side of it.
    Some(values.into_iter().map(|value| value.max(0.0).sqrt()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> TransferFacts {
        TransferFacts {
            prompt_tokens: Some(10),
            ending: Some(0.9),
            validation: Some(Validation { cosine: 0.9, perplexity: Some(20.0) }),
            ..Default::default()
        }
    }

    fn reasons(facts: TransferFacts) -> Vec<GateReason> {
        GateOptions::default().assess(&facts).reasons().to_vec()
    }

    #[test]
    fn modes_are_read_as_they_are_written() {
        for mode in [GateMode::Off, GateMode::Advise, GateMode::Enforce] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!(GateMode::default(), GateMode::Enforce);
        assert!("Enforce".parse::<GateMode>().unwrap_err().to_string().contains("`Enforce`"));
    }

    // spec: projection 7.1
    #[test]
    fn what_is_at_its_limit_passes_and_what_is_beyond_is_named_with_it() {
        let options = GateOptions { max_effective_rank: Some(0.8), ..Default::default() };
        let at = TransferFacts {
            prompt_tokens: Some(options.max_prompt_tokens),
            entropy: options.max_entropy,
            left_out: options.max_left_out,
            ending: Some(options.min_ending),
            effective_rank: Some(0.8),
            validation: Some(Validation {
                cosine: options.min_cosine,
                perplexity: Some(options.max_perplexity),
            }),
        };
        let verdict = options.assess(&at);
        assert!(verdict.recommends_latent(), "{verdict}");
        assert_eq!(verdict.to_string(), "within all limits");
        let beyond = TransferFacts {
            prompt_tokens: Some(301),
            entropy: 9.0,
            left_out: 0.5,
            ending: Some(0.25),
            effective_rank: Some(0.9),
            validation: Some(Validation { cosine: 0.25, perplexity: Some(101.0) }),
        };
        let verdict = options.assess(&beyond);
        assert_eq!(
            verdict.reasons(),
            [
                GateReason::PromptTokens { tokens: 301, limit: 300 },
                GateReason::EffectiveRank { ratio: 0.9, limit: 0.8 },
                GateReason::Entropy { nats: 9.0, limit: options.max_entropy },
                GateReason::LeftOut { mass: 0.5, limit: options.max_left_out },
                GateReason::Ending { probability: 0.25, limit: options.min_ending },
                GateReason::Cosine { cosine: 0.25, limit: 0.5 },
                GateReason::Perplexity { perplexity: 101.0, limit: 100.0 },
            ]
        );
        let line = verdict.to_string();
        assert!(!line.contains('\n') && line.contains("301 tokens, more than 300; "), "{line}");
    }

    // spec: projection 7.2
    #[test]
    fn what_is_not_known_speaks_against_a_transfer_except_the_rank_and_a_perplexity() {
        let unknown = [GateReason::PromptTokensUnknown, GateReason::EndingUnknown, GateReason::Unvalidated];
        assert_eq!(reasons(TransferFacts::default()), unknown);
        assert_eq!(reasons(good()), []);
        let validation = Some(Validation { cosine: 0.5, perplexity: None });
        assert_eq!(reasons(TransferFacts { validation, ..good() }), []);
        assert_eq!(reasons(TransferFacts { effective_rank: Some(1.0), ..good() }), []);
    }

    #[test]
    fn nothing_that_is_not_a_number_passes() {
        let options = GateOptions { max_effective_rank: Some(0.8), ..Default::default() };
        let nan = f32::NAN;
        let facts = TransferFacts {
            prompt_tokens: Some(1),
            entropy: nan,
            left_out: nan,
            ending: Some(nan),
            effective_rank: Some(nan),
            validation: Some(Validation { cosine: nan, perplexity: Some(nan) }),
        };
        assert_eq!(options.assess(&facts).reasons().len(), 6);
    }

    #[test]
    fn facts_are_the_largest_over_positions_and_left_out_mass_has_entropy() {
        let even = Distribution::new(vec![1, 5], vec![0.5, 0.5], 0.0).unwrap();
        let cut = Distribution::new(vec![1, 7], vec![0.75, 0.0], 0.25).unwrap();
        let facts = TransferFacts::of_distributions(&[cut.clone(), even]);
        assert_eq!((facts.entropy, facts.left_out), (2.0_f32.ln(), 0.25));
        let facts = TransferFacts::of_distributions(&[cut]);
        assert!((facts.entropy - 0.562_335).abs() < 1e-6, "{}", facts.entropy);
    }

    #[test]
    fn the_ending_is_the_probability_of_all_stop_tokens() {
        let logits = [1.0_f32.ln(), 2.0_f32.ln(), 3.0_f32.ln(), 4.0_f32.ln()];
        assert!((ending(&logits, &[3, 1, 3, 99]).unwrap() - 0.6).abs() < 1e-6);
        assert_eq!(ending(&logits, &[]), Ok(0.0));
        assert_eq!(ending(&[0.0, f32::NAN], &[0]), Err(NonFinite));
        assert_eq!(ending(&[], &[0]), Err(NonFinite));
    }

    #[test]
    fn the_effective_rank_of_equal_singular_values_is_one_and_of_a_single_one_zero() {
        let identity = [2.0, 0.0, 0.0, 0.0, -2.0, 0.0];
        assert!((effective_rank(&identity, 3) - 1.0).abs() < 1e-6);
        let one_direction = [1.0, 2.0, 2.0, 4.0, -1.0, -2.0];
        assert!(effective_rank(&one_direction, 2) < 1e-6);
        // Singular values 3 and 1: entropy of (0.75, 0.25), 0.562335, over ln 2.
        assert!((effective_rank(&[3.0, 0.0, 0.0, 1.0], 2) - 0.811_278).abs() < 1e-5);
        for (few, dim) in [(&[][..], 4), (&[1.0, 2.0], 2), (&[1.0, 2.0, 3.0], 1), (&[0.0; 8], 4), (&[1.0], 0)]
        {
            assert_eq!(effective_rank(few, dim), 0.0, "{few:?}");
        }
        assert!(effective_rank(&[1.0, f32::NAN, 0.0, 1.0], 2).is_nan());
    }
}
