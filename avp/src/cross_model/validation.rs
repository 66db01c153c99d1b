//! Measuring once for each pair of models what a projection is worth (docs/spec/exchange.md, 8): the sender has the texts read
//! and says what its model expects after each token, the receiver holds that against what comes.

use std::sync::Arc;

use avp_backend::{
    Backend, ModelInfo, SharedTokens, Validation, ValidationCache, ValidationKey, ValidationText, validate,
    validation_of, validation_texts, validation_texts_hash,
};
use avp_handshake::{Reject, TextMessage};
use avp_transport::Transfer;
use avp_wire::{Distribution, ErrorCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::OutgoingHidden;
use super::incoming::{Incoming, refusal};
use crate::ask_error::AskError;
use crate::asking::{blocking, reply, send};
use crate::exchange::text_frame;

/// Key of a validation's `extra` object, in question and answer.
pub(crate) const VALIDATE: &str = "validate";
/// Tokens of each distribution (docs/spec/projection.md, 8.2).
pub(super) const MOST_TOKENS: usize = 1024;

/// The texts that the distributions of the transfer belong to, by their tokens in the receiver's ids; `null` where it has none.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    texts: Vec<Vec<Option<u32>>>,
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    cosine: f32,
    perplexity: Option<f32>,
}

/// What a projection of the sender's model into the model `target` is worth: as measured before, or now.
pub(crate) async fn validation(
    hidden: &OutgoingHidden,
    shared: &Arc<SharedTokens>,
    target: &str,
    frame: impl Fn(Vec<Distribution>, &str) -> avp_wire::Frame,
    session_id: &str,
    open: impl FnOnce() -> Result<Transfer, AskError>,
) -> Result<Validation, AskError> {
    let agent = hidden.agent.clone();
    let info = agent.backend().info().clone();
    let texts = validation_texts(&info);
    let source = name_of(&info);
    let hash = validation_texts_hash(&texts);
    let key = ValidationKey { source: &source, target, texts: &hash };
    let cache = agent.cache_dir().map(|dir| ValidationCache::new(dir.join("validations")));
    if let Some(known) = cache.as_ref().and_then(|cache| cache.load(&key)) {
        return Ok(known);
    }
    let (here, tokens, for_thread) = (agent.clone(), Arc::clone(shared), texts.clone());
    let read = move || validation_of(here.backend().as_ref(), &tokens, &for_thread, MOST_TOKENS);
    let read = blocking(read).await??;
    let request = Request { texts: read.iter().map(|text| text.tokens.clone()).collect() };
    let expected = read.into_iter().flat_map(|text| text.expected).collect();
    let mut lane = open()?;
    send(&lane, frame(expected, lane.id())).await?;
    let extra = Map::from_iter([(VALIDATE.to_owned(), serde_json::to_value(request).unwrap_or_default())]);
    let message = TextMessage { session_id: session_id.to_owned(), extra, ..TextMessage::default() };
    send(&lane, text_frame(message, Some(lane.id()))).await?;
    let reply = TextMessage::from_json(&reply(&mut lane).await?.payload).map_err(AskError::Answer)?;
    let outcome = reply.extra.get(VALIDATE).cloned().map(serde_json::from_value::<Outcome>);
    let Some(Ok(Outcome { cosine, perplexity })) = outcome else { return Err(AskError::Validation) };
    let found = Validation { cosine, perplexity };
    keep(cache.as_ref(), &key, &found);
    Ok(found)
}

/// Keeps what was found for later runs. A disk that refuses costs another measurement, no more.
pub(super) fn keep(cache: Option<&ValidationCache>, key: &ValidationKey<'_>, found: &Validation) {
    if let Some(Err(error)) = cache.map(|cache| cache.store(key, found)) {
        tracing::debug!(%error, "a validation is not kept");
    }
}

/// What tells a model from others: its checkpoint, or what is known instead.
pub(super) fn name_of(info: &ModelInfo) -> String {
    info.weights.clone().unwrap_or_else(|| info.identity.model_hash.clone())
}

/// The receiver's side: what `request` asks about the distributions that came.
pub(crate) fn validated(
    target: &dyn Backend,
    came: Incoming,
    request: Value,
) -> Result<Map<String, Value>, Reject> {
    let invalid = |what: &str| Reject::new(ErrorCode::InvalidArgument, what.to_owned());
    let request: Request = serde_json::from_value(request)
        .map_err(|_| invalid("extra.validate is not an object with `texts`, lists of token ids"))?;
    let mut expected = came.0.into_iter();
    let text = |tokens: Vec<Option<u32>>| {
        let expected: Vec<Distribution> = expected.by_ref().take(tokens.len()).collect();
        ValidationText { tokens, expected }
    };
    let texts: Vec<ValidationText> = request.texts.into_iter().map(text).collect();
    if expected.next().is_some() || texts.iter().any(|text| text.tokens.len() != text.expected.len()) {
        return Err(invalid("extra.validate has not one token for each distribution"));
    }
    let Validation { cosine, perplexity } = validate(target, &texts).map_err(|error| refusal(&error))?;
    let outcome = serde_json::to_value(Outcome { cosine, perplexity }).unwrap_or_default();
    Ok(Map::from_iter([(VALIDATE.to_owned(), outcome)]))
}
