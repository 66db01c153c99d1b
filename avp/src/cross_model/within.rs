//! Handing over to another model of this process, by what a peer would be sent or by a linear map.

use avp_backend::{
    Context, GateMode, MapProjection, ProjectionError, ProjectionMap, SharedTokens, Validation,
    embed_distributions, validate_pair, validation_texts,
};
use avp_wire::vocabulary::SharedPairs;

use super::plan::rows_for_map;
use super::shared::{self, has_same_tokenizer};
use super::validation::KeptValidation;
use super::{OutgoingHidden, Plan, plan};
use crate::{Agent, Handover};

/// What became of hidden states for another model.
#[derive(Debug)]
#[non_exhaustive]
pub enum Projected {
    /// A context of that model, which has read the distributions.
    Context(Context, Handover),
    /// Text is to go instead: why.
    Text(String),
}

/// Projects hidden states into the model of another agent of this process, as far as the models have tokens in common and the
/// quality gate lets it go. For a blocking thread.
///
/// # Errors
/// [`ProjectionError`] if an engine fails.
pub fn project_into(hidden: &OutgoingHidden, target: &Agent) -> Result<Projected, ProjectionError> {
    let map = hidden.agent.map_to(target.backend().info().into());
    if let Some(map @ ProjectionMap { projection: MapProjection::Linear(_), .. }) = &map {
        return by_linear_map(hidden, target, map);
    }
    let measured = map.as_ref().and_then(|map| map.validation);
    let shared = match shared_tokens(&hidden.agent, target, map) {
        Ok(shared) => shared,
        Err(why) => return Ok(Projected::Text(why)),
    };
    let validation = match (hidden.gate, measured) {
        (GateMode::Off, _) => None,
        (_, Some(measured)) => Some(measured),
        (_, None) => Some(validated(&hidden.agent, target, &shared)?),
    };
    let (distributions, handover) = match plan(hidden, &shared, validation)? {
        Plan::Send { distributions, handover } => (distributions, handover),
        Plan::Text(why) => return Ok(Projected::Text(why)),
    };
    let backend = target.backend().as_ref();
    let embeddings = embed_distributions(backend, &distributions, None)?;
    Ok(Projected::Context(Context::of_embeddings(backend, &embeddings)?, handover))
}

fn by_linear_map(
    hidden: &OutgoingHidden,
    target: &Agent,
    map: &ProjectionMap,
) -> Result<Projected, ProjectionError> {
    let (rows, advice) = match rows_for_map(hidden, map.validation)? {
        Ok(found) => found,
        Err(why) => return Ok(Projected::Text(why)),
    };
    let (source, target) = (hidden.agent.backend().as_ref(), target.backend().as_ref());
    let embeddings = map.apply(source, target, rows, &hidden.options())?;
    let positions = rows.len() / hidden.states.dim();
    let handover = Handover::Embeddings { positions, advice };
    Ok(Projected::Context(Context::of_embeddings(target, &embeddings)?, handover))
}

/// The tokens that both have, or why there are too few.
fn shared_tokens(source: &Agent, target: &Agent, map: Option<ProjectionMap>) -> Result<SharedTokens, String> {
    let (from, into) = (source.backend().info(), target.backend().info());
    let rows = [from.vocab_size, into.vocab_size];
    if let Some(shared) = shared::known(has_same_tokenizer(&from.identity, &into.identity), rows, map) {
        return Ok(shared);
    }
    let (Some(ours), Some(theirs)) = (source.own_vocabulary(), target.own_vocabulary()) else {
        return Err("it is not known what the models' tokens mean".to_owned());
    };
    shared::enough(&SharedPairs::between(&ours.hashes, &theirs.hashes), rows)
}

/// What a projection into the model of `target` is worth: as measured before, or now.
fn validated(source: &Agent, target: &Agent, shared: &SharedTokens) -> Result<Validation, ProjectionError> {
    let (from, into) = (source.backend().as_ref(), target.backend().as_ref());
    let kept = KeptValidation::of(source, into.info().into(), &validation_texts(from.info()));
    if let Some(known) = kept.as_ref().and_then(KeptValidation::load) {
        return Ok(known);
    }
    let found = validate_pair(from, into, shared)?;
    if let Some(kept) = kept {
        kept.store(&found);
    }
    Ok(found)
}
