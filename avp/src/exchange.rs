//! What agents say to one another in a session: a question, with or without a context before it, and the answer.
//!
//! A question is a `text` frame. The context that it builds on comes before it as a `slab` frame of the same
//! `avp.transfer`. The answer is a `text` frame too, or a refusal. docs/spec/exchange.md says it in full.

use std::time::Duration;

use avp_backend::{GenerateOptions, SamplingOptions, Verification};
use avp_handshake::{MessageError, Reject, TextMessage};
use avp_wire::ext::{self, FrameKind, SlabId};
use avp_wire::{ErrorCode, Frame, KvHeader, Metadata, Mode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::answering::Written;
use crate::cross_model::VALIDATE;
use crate::{Handover, KvPath};

/// Key of a question's `extra` object.
const GENERATE: &str = "generate";
/// Key of what a question's `extra` object says of what was handed over.
const HANDOVER: &str = "handover";
/// Characters of a peer's reason that are kept.
const MOST_WHY: usize = 512;
/// Key of an answer's `extra` object.
const ANSWER: &str = "answer";

/// How the answer is to be written, as a question's `extra.generate` says it. Absent fields take the receiver's
/// defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GenerateRequest {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    seed: Option<u64>,
    stop: Vec<String>,
}

impl GenerateRequest {
    pub(crate) fn of(options: &GenerateOptions) -> Self {
        let sampling = &options.sampling;
        Self {
            max_tokens: Some(options.max_tokens),
            temperature: Some(sampling.temperature),
            top_p: Some(sampling.top_p),
            top_k: Some(sampling.top_k),
            seed: Some(sampling.seed),
            stop: options.stop_strings.clone(),
        }
    }

    /// Options within what the receiver allows.
    pub(crate) fn options(&self, most_tokens: usize) -> GenerateOptions {
        let default = SamplingOptions::default();
        let finite = |value: Option<f32>, default: f32| value.filter(|v| v.is_finite()).unwrap_or(default);
        GenerateOptions {
            max_tokens: self.max_tokens.unwrap_or(most_tokens).min(most_tokens),
            sampling: SamplingOptions {
                temperature: finite(self.temperature, default.temperature).max(0.0),
                top_p: finite(self.top_p, default.top_p).clamp(0.0, 1.0),
                top_k: self.top_k.unwrap_or(default.top_k),
                seed: self.seed.unwrap_or(default.seed),
            },
            stop_strings: self.stop.iter().take(16).cloned().collect(),
            stop_tokens: Vec::new(),
            grammar: None,
        }
    }
}

/// What an answer's `extra.answer` says beside the text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AnswerRecord {
    tokens: Vec<u32>,
    prompt_tokens: usize,
    context_tokens: usize,
    verified: bool,
    stop: String,
}

/// An answer of another agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The token ids that the peer's model chose.
    pub tokens: Vec<u32>,
    /// Why it ended, as [`StopReason::as_str`](crate::StopReason::as_str) names it.
    pub stop: String,
    /// What the peer got of the context.
    pub handover: Handover,
    /// Which way the KV cache went, where one did.
    pub kv_path: Option<KvPath>,
    /// Whether the peer knows the context to come from its own checkpoint.
    pub verified: bool,
    /// Tokens that the peer had to process before it could answer.
    pub prompt_tokens: usize,
    /// Tokens that it took over.
    pub context_tokens: usize,
    /// Bytes that went to the peer, heads of frames left out.
    pub bytes_sent: u64,
    /// From sending to the answer.
    pub elapsed: Duration,
}

/// A question as a frame.
pub(crate) fn question_frame(
    session_id: &str,
    source: &str,
    content: String,
    request: &GenerateRequest,
    handover: &Handover,
    transfer: Option<&str>,
) -> Frame {
    let mut message = message(session_id, source, content, (GENERATE, request));
    let said = Said { mode: handover.as_str().to_owned(), why: handover.why().map(str::to_owned) };
    message.extra.extend(serde_json::to_value(said).map(|said| (HANDOVER.to_owned(), said)));
    text_frame(message, transfer)
}

/// What a sender says of what it handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Said {
    /// [`Handover::as_str`].
    pub(crate) mode: String,
    /// Why it is text, or what the quality gate says against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
}

impl Said {
    /// What a message says; of anything else than words, nothing.
    fn of(message: &TextMessage) -> Self {
        let said = message.extra.get(HANDOVER).cloned().map(serde_json::from_value::<Self>);
        let Self { mode, why } = said.and_then(Result::ok).unwrap_or_default();
        let words =
            |text: String| text.chars().filter(|c| !c.is_control()).take(MOST_WHY).collect::<String>();
        Self { mode: words(mode), why: why.map(words) }
    }
}

/// What a text message asks.
pub(crate) struct Asked {
    pub(crate) prompt: String,
    pub(crate) request: GenerateRequest,
    pub(crate) said: Said,
    /// Where it asks what distributions are worth instead of an answer: about which texts.
    pub(crate) validate: Option<Value>,
}

/// What a text message asks.
pub(crate) fn question_of(message: Result<TextMessage, MessageError>) -> Result<Asked, Reject> {
    let invalid = |what: String| Reject::new(ErrorCode::InvalidArgument, what);
    let message = message.map_err(|error| invalid(error.to_string()))?;
    let said = Said::of(&message);
    let TextMessage { content: prompt, mut extra, .. } = message;
    let request = match extra.get(GENERATE) {
        None => Some(GenerateRequest::default()),
        // Serde would take a list for an object's fields in their order.
        Some(value) => value.is_object().then(|| serde_json::from_value(value.clone()).ok()).flatten(),
    };
    let request = request.ok_or_else(|| invalid("extra.generate has a wrong type".to_owned()))?;
    Ok(Asked { prompt, request, said, validate: extra.remove(VALIDATE) })
}

/// An answer.
pub(crate) fn answer_message(session_id: &str, source: &str, written: Written) -> TextMessage {
    let (generation, verification) = written;
    let record = AnswerRecord {
        tokens: generation.tokens,
        prompt_tokens: generation.prompt_tokens,
        context_tokens: generation.context_tokens,
        verified: verification == Some(Verification::Verified),
        stop: generation.stop.as_str().to_owned(),
    };
    message(session_id, source, generation.text, (ANSWER, &record))
}

/// What an answer says beside its text; empty for a peer that says nothing.
pub(crate) fn record_of(message: &TextMessage) -> AnswerRecord {
    let record = message.extra.get(ANSWER).cloned().map(serde_json::from_value);
    record.and_then(Result::ok).unwrap_or_default()
}

impl AnswerRecord {
    pub(crate) fn into_answer(
        self,
        text: String,
        handover: Handover,
        bytes_sent: u64,
        elapsed: Duration,
    ) -> Answer {
        Answer {
            text,
            tokens: self.tokens,
            stop: self.stop,
            handover,
            kv_path: None,
            verified: self.verified,
            prompt_tokens: self.prompt_tokens,
            context_tokens: self.context_tokens,
            bytes_sent,
            elapsed,
        }
    }
}

fn message(session_id: &str, source: &str, content: String, more: (&str, &impl Serialize)) -> TextMessage {
    let (key, value) = more;
    let extra = serde_json::to_value(value).map(|value| Map::from_iter([(key.to_owned(), value)]));
    TextMessage {
        session_id: session_id.to_owned(),
        source_agent_id: source.to_owned(),
        content,
        extra: extra.unwrap_or_default(),
        ..TextMessage::default()
    }
}

/// A message as a frame.
pub(crate) fn text_frame(message: TextMessage, transfer: Option<&str>) -> Frame {
    let payload = message.to_json().into_bytes();
    let mut metadata = Metadata {
        session_id: message.session_id,
        source_agent_id: message.source_agent_id,
        mode: Mode::Json,
        ..Metadata::default()
    };
    metadata.extra.insert(ext::KIND.to_owned(), FrameKind::Text.as_str().to_owned());
    metadata.extra.extend(transfer.map(|id| (ext::TRANSFER.to_owned(), id.to_owned())));
    Frame::new(metadata, payload)
}

/// Marks a context's frame as the one slab of a transfer.
pub(crate) fn mark_slab(metadata: &mut Metadata, header: &KvHeader, session_id: &str, transfer: &str) {
    let slab = SlabId { first_layer: 0, layers: header.num_layers, first_token: 0, tokens: header.seq_len };
    metadata.session_id = session_id.to_owned();
    metadata.extra.insert(ext::KIND.to_owned(), FrameKind::Slab.as_str().to_owned());
    metadata.extra.insert(ext::TRANSFER.to_owned(), transfer.to_owned());
    metadata.extra.insert(ext::SLAB.to_owned(), slab.to_string());
}
