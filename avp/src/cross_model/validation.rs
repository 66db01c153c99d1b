//! Measuring once for each pair of models what a projection is worth (docs/spec/exchange.md, 8): the sender has the texts read
//! and says what its model expects after each token, the receiver holds that against what comes.

use std::sync::Arc;

use avp_backend::{
    Backend, ModelKey, SharedTokens, Validation, ValidationCache, ValidationKey, ValidationText, validate,
    validation_of, validation_texts, validation_texts_hash,
};
use avp_handshake::{Reject, TextMessage};
use avp_transport::Transfer;
use avp_wire::{Distribution, ErrorCode, Frame};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::OutgoingHidden;
use super::incoming::{Incoming, refusal};
use crate::Agent;
use crate::ask_error::AskError;
use crate::asking::{blocking, reply, send};
use crate::exchange::text_frame;

/// Key of a validation's `extra` object, in question and answer.
pub(crate) const VALIDATE: &str = "validate";
/// Tokens of each distribution (docs/spec/projection.md, 8.2).
const MOST_TOKENS: usize = 1024;

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
    target: ModelKey<'_>,
    frame: impl Fn(Vec<Distribution>, &str) -> Frame,
    session_id: &str,
    open: impl FnOnce() -> Result<Transfer, AskError>,
) -> Result<Validation, AskError> {
    let agent = hidden.agent.clone();
    let texts = validation_texts(agent.backend().info());
    let kept = KeptValidation::of(&agent, target, &texts);
    if let Some(known) = kept.as_ref().and_then(KeptValidation::load) {
        return Ok(known);
    }
    let shared = Arc::clone(shared);
    let read = move || validation_of(agent.backend().as_ref(), &shared, &texts, MOST_TOKENS);
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
    if let Some(kept) = kept {
        kept.store(&found);
    }
    Ok(found)
}

/// Where the validation of one pair of models is kept between runs.
pub(super) struct KeptValidation {
    cache: ValidationCache,
    source: String,
    target: String,
    /// Hash of the texts.
    texts: String,
}

impl KeptValidation {
    /// That of projections from the model of `source`. `None` where this agent keeps nothing, or nothing tells one of the models
    /// from others: what is found of it says nothing of the next one.
    pub(super) fn of(source: &Agent, target: ModelKey<'_>, texts: &[String]) -> Option<Self> {
        let cache = ValidationCache::new(source.cache_dir()?.join("validations"));
        let (source, target) = (name_of(source.backend().info().into())?, name_of(target)?);
        Some(Self { cache, source, target, texts: validation_texts_hash(texts) })
    }

    pub(super) fn load(&self) -> Option<Validation> {
        self.cache.load(&self.key())
    }

    /// A disk that refuses costs another measurement, no more.
    pub(super) fn store(&self, found: &Validation) {
        if let Err(error) = self.cache.store(&self.key(), found) {
            tracing::debug!(%error, "a validation is not kept");
        }
    }

    fn key(&self) -> ValidationKey<'_> {
        ValidationKey { source: &self.source, target: &self.target, texts: &self.texts }
    }
}

/// The checkpoint of a model, or its hash where that is not known.
fn name_of(model: ModelKey<'_>) -> Option<String> {
    [model.weights, model.model_hash].into_iter().find(|name| !name.is_empty()).map(str::to_owned)
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
