//! What is shipped of hidden states, and whether the quality gate lets it go.

use avp_backend::{
    GateMode, ProjectionError, SharedTokens, TransferFacts, Validation, distributions, effective_rank, ending,
};
use avp_wire::Distribution;

use super::OutgoingHidden;
use crate::Handover;

/// What becomes of hidden states.
pub(crate) enum Plan {
    /// They go as these distributions.
    Send { distributions: Vec<Distribution>, handover: Handover },
    /// Text goes instead: why.
    Text(String),
}

/// Makes the distributions and asks the gate. For a blocking thread.
pub(crate) fn plan(
    hidden: &OutgoingHidden,
    shared: &SharedTokens,
    validation: Option<Validation>,
) -> Result<Plan, ProjectionError> {
    let backend = hidden.agent.backend().as_ref();
    let said = Said::of(hidden)?;
    let distributions = distributions(backend, shared, said.rows, hidden.top_k, &hidden.options())?;
    let facts = said.facts(hidden, &distributions, validation);
    let left_out = facts.left_out;
    let advice = match judged(hidden, &facts) {
        Ok(advice) => advice,
        Err(why) => return Ok(Plan::Text(why)),
    };
    let handover = Handover::Distribution { positions: distributions.len(), left_out, advice };
    Ok(Plan::Send { distributions, handover })
}

/// What the gate says against a transfer where it advises only; why there is to be none where it is enforced.
fn judged(hidden: &OutgoingHidden, facts: &TransferFacts) -> Result<Option<String>, String> {
    let verdict = hidden.gate_options.assess(facts);
    let against = (!verdict.recommends_latent()).then(|| verdict.to_string());
    match (hidden.gate, against) {
        (GateMode::Enforce, Some(why)) => Err(format!("the quality gate: {why}")),
        (GateMode::Advise, against) => Ok(against),
        _ => Ok(None),
    }
}

/// Rows and advice, or why text.
pub(super) type RowsForMap<'a> = Result<(&'a [f32], Option<String>), String>;

/// The rows that a linear map takes to another model, and what the gate says against it; or why there are to be none. How sure the
/// model is shows in its distributions over its own tokens.
pub(super) fn rows_for_map(
    hidden: &OutgoingHidden,
    validation: Option<Validation>,
) -> Result<RowsForMap<'_>, ProjectionError> {
    let backend = hidden.agent.backend().as_ref();
    let said = Said::of(hidden)?;
    let all = SharedTokens::Same(backend.info().vocab_size);
    let own = distributions(backend, &all, said.rows, usize::MAX, &hidden.options())?;
    let facts = said.facts(hidden, &own, validation);
    Ok(judged(hidden, &facts).map(|advice| (said.rows, advice)))
}

/// The part of the hidden states that the model needs for what it has to say.
struct Said<'a> {
    /// `[n, hidden_dim]`.
    rows: &'a [f32],
    /// How probably it ends its turn there, where known.
    ending: Option<f32>,
}

impl<'a> Said<'a> {
    /// The rows up to the end of the model's turn: what it would think behind that, it would not say.
    fn of(hidden: &'a OutgoingHidden) -> Result<Self, ProjectionError> {
        let backend = hidden.agent.backend();
        let (states, least) = (&hidden.states, hidden.gate_options.min_ending);
        let up_to = |rows: usize, ending| Self { rows: &states.rows()[..rows * states.dim()], ending };
        let of_prompt = states.len() - states.latent_steps();
        let mut most = states.ending();
        if most.is_some_and(|ending| ending >= least) {
            return Ok(up_to(of_prompt, most));
        }
        let latent = states.rows().chunks_exact(states.dim()).enumerate().skip(of_prompt);
        for (row, state) in latent {
            let ending = ending(&backend.logits(state)?, &backend.info().stop_tokens)?;
            if ending >= least {
                return Ok(up_to(row, Some(ending)));
            }
            most = Some(most.unwrap_or(0.0).max(ending));
        }
        Ok(up_to(states.len(), most))
    }

    /// What the gate judges by, where `distributions` are made of these rows.
    fn facts(
        &self,
        hidden: &OutgoingHidden,
        distributions: &[Distribution],
        validation: Option<Validation>,
    ) -> TransferFacts {
        let rank = |_| effective_rank(self.rows, hidden.states.dim());
        TransferFacts {
            prompt_tokens: hidden.states.prompt_tokens(),
            ending: self.ending,
            effective_rank: hidden.gate_options.max_effective_rank.map(rank),
            validation,
            ..TransferFacts::of_distributions(distributions)
        }
    }
}
