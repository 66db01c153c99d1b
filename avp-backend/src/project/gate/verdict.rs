//! What speaks against a transfer, for programs and for people.

use std::fmt;

/// What speaks against a transfer, if anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    pub(super) reasons: Vec<GateReason>,
}

impl Verdict {
    /// Whether nothing speaks against it.
    #[must_use]
    pub fn recommends_latent(&self) -> bool {
        self.reasons.is_empty()
    }

    /// What speaks against it.
    #[must_use]
    pub fn reasons(&self) -> &[GateReason] {
        &self.reasons
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reasons.is_empty() {
            return f.write_str("within all limits");
        }
        for (i, reason) in self.reasons.iter().enumerate() {
            let before = if i == 0 { "" } else { "; " };
            write!(f, "{before}{reason}")?;
        }
        Ok(())
    }
}

/// One thing that speaks against a transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum GateReason {
    /// Nobody said how long the prompt was.
    PromptTokensUnknown,
    /// The prompt is long.
    PromptTokens {
        /// Tokens read.
        tokens: usize,
        /// [`GateOptions::max_prompt_tokens`](crate::GateOptions::max_prompt_tokens).
        limit: usize,
    },
    /// The hidden states are spread over many dimensions.
    EffectiveRank {
        /// [`effective_rank`](crate::effective_rank).
        ratio: f32,
        /// [`GateOptions::max_effective_rank`](crate::GateOptions::max_effective_rank).
        limit: f32,
    },
    /// A position says no token in particular.
    Entropy {
        /// Entropy in nats.
        nats: f32,
        /// [`GateOptions::max_entropy`](crate::GateOptions::max_entropy).
        limit: f32,
    },
    /// Tokens that are likely are not shipped.
    LeftOut {
        /// Probability mass.
        mass: f32,
        /// [`GateOptions::max_left_out`](crate::GateOptions::max_left_out).
        limit: f32,
    },
    /// Nobody measured whether the source has more to say.
    EndingUnknown,
    /// The source would go on after the shipped positions.
    Ending {
        /// Probability that it would not.
        probability: f32,
        /// [`GateOptions::min_ending`](crate::GateOptions::min_ending).
        limit: f32,
    },
    /// Nobody measured what the projection between the two models is worth.
    Unvalidated,
    /// The projection misses the tokens that follow.
    Cosine {
        /// [`Validation::cosine`](crate::Validation::cosine).
        cosine: f32,
        /// [`GateOptions::min_cosine`](crate::GateOptions::min_cosine).
        limit: f32,
    },
    /// The projection confuses the target.
    Perplexity {
        /// [`Validation::perplexity`](crate::Validation::perplexity).
        perplexity: f32,
        /// [`GateOptions::max_perplexity`](crate::GateOptions::max_perplexity).
        limit: f32,
    },
}

impl fmt::Display for GateReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PromptTokensUnknown => f.write_str("the length of the prompt is not known"),
            Self::PromptTokens { tokens, limit } => {
                write!(f, "the prompt has {tokens} tokens, more than {limit}")
            }
            Self::EffectiveRank { ratio, limit } => {
                write!(f, "the effective rank of the hidden states is {ratio:.3}, above {limit}")
            }
            Self::Entropy { nats, limit } => {
                write!(f, "the entropy of a position is {nats:.2} nats, above {limit}")
            }
            Self::LeftOut { mass, limit } => {
                write!(f, "{mass:.3} of a position's probability is not shipped, more than {limit}")
            }
            Self::EndingUnknown => f.write_str("whether the source has more to say is not known"),
            Self::Ending { probability, limit } => write!(
                f,
                "the source ends its answer there with a probability of {probability:.3}, below {limit}"
            ),
            Self::Unvalidated => f.write_str("the projection between the two models was not validated"),
            Self::Cosine { cosine, limit } => {
                write!(f, "the projection has a validation cosine of {cosine:.3}, below {limit}")
            }
            Self::Perplexity { perplexity, limit } => {
                write!(f, "the projection has a validation perplexity of {perplexity:.1}, above {limit}")
            }
        }
    }
}
