//! Generating text: prefill a prompt after a context, then decode token by token.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::constrain::Bounds;
use crate::prompt::{Prompt, PromptError};
use crate::sample::{Sampler, SamplingOptions};
use crate::stream::{StopStrings, TextStream};
use crate::think::{Progress, StartError, prefill_by, start};
use crate::{
    Backend, BackendError, Context, ContextError, ContextImport, Grammar, GrammarError, Input, KvPart,
    NonFinite, Sequence,
};

/// How an agent writes.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to write.
    pub max_tokens: usize,
    /// How each token is chosen.
    pub sampling: SamplingOptions,
    /// Texts that end the generation and are not part of it.
    pub stop_strings: Vec<String>,
    /// Ids that end the generation, beside the model's own.
    pub stop_tokens: Vec<u32>,
    /// A grammar that the text obeys. Stop tokens come where it lets the text end only; what else stops a generation may
    /// cut the text short.
    pub grammar: Option<Grammar>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 512,
            sampling: SamplingOptions::default(),
            stop_strings: Vec::new(),
            stop_tokens: Vec::new(),
            grammar: None,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// The text, without special tokens and without the stop string.
    pub text: String,
    /// The tokens chosen, without the one that stopped it.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub stop: StopReason,
    /// Tokens of the prompt, which the model had to process now.
    pub prompt_tokens: usize,
    /// Tokens of the context, which it did not.
    pub context_tokens: usize,
    /// Time until the prompt was read.
    pub prefill_time: Duration,
    /// Time of all decode steps.
    pub decode_time: Duration,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// This stop token was chosen.
    Token(u32),
    /// A stop string was written.
    Text,
    /// The grammar lets nothing more follow, and the model has no stop token.
    Grammar,
    /// [`GenerateOptions::max_tokens`] were written.
    MaxTokens,
    /// The model's context window is full.
    ContextWindow,
    /// The caller's callback said so.
    Cancelled,
}

impl StopReason {
    /// `token`, `text`, `grammar`, `max_tokens`, `context_window` or `cancelled`, as answers and reports name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Token(_) => "token",
            Self::Text => "text",
            Self::Grammar => "grammar",
            Self::MaxTokens => "max_tokens",
            Self::ContextWindow => "context_window",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What a running generation tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GenerateEvent<'a> {
    /// The prompt is being read.
    Progress(Progress),
    /// Text to append: whole characters, never part of a stop string.
    Text(&'a str),
    /// A token was written. Its text may be nothing, or still to come.
    Token(u32),
}

/// Why nothing, or no more, could be written. The context is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// Logits were NaN or infinite.
    #[error(
        "the model's logits are not finite at token {token}; the model or its type cannot carry this input"
    )]
    NonFinite {
        /// Tokens written before.
        token: usize,
    },
    /// Prompt and context leave no room to write.
    #[error(
        "{context} tokens of context and {prompt} of prompt do not fit the window of {window} tokens; shorten the prompt or start from a shorter context"
    )]
    ContextWindow {
        /// Tokens of the context.
        context: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// The window.
        window: usize,
    },
    /// The grammar lets none of the model's tokens follow, and the text not end.
    #[error(
        "no token of the model goes on as the grammar asks after {token} tokens; let the grammar end there, or use characters that the model can write"
    )]
    NoToken {
        /// Tokens written before.
        token: usize,
    },
    /// The text cannot be followed under the grammar.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// The prompt could not be made into tokens.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The context does not belong to this model.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The engine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl From<StartError> for GenerateError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Context(error) => Self::Context(error),
            StartError::Backend(error) => Self::Backend(error),
        }
    }
}

/// Reads `prompt` after `context` and writes until something stops it.
///
/// `context` is not changed. `on_event` hears text as it comes and may end the generation.
///
/// # Errors
/// [`GenerateError`].
pub fn generate(
    backend: &dyn Backend,
    prompt: &Prompt,
    context: Option<&Context>,
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(GenerateEvent<'_>) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let begun = Begun::new(backend, prompt, context.map_or(0, Context::len), options)?;
    let mut sequence = start(backend, context, begun.tokens.len() + begun.budget)?;
    let mut progress = |progress| on_event(GenerateEvent::Progress(progress));
    let hidden = prefill_by(&begun.tokens, &mut progress, |chunk, _| sequence.forward(Input::Tokens(chunk)))?;
    begun.write(backend, sequence, hidden, options, on_event)
}

/// As [`generate`] after a context of which some is still on its way: `arrive` blocks until there is a further part.
/// The prompt is read layer by layer while later layers arrive, where the engine can
/// ([`Sequence::forward_arriving`]).
///
/// # Errors
/// [`GenerateError`]; what `arrive` fails with, as [`GenerateError::Backend`].
pub fn generate_arriving(
    backend: &dyn Backend,
    prompt: &Prompt,
    import: ContextImport,
    arrive: &mut dyn FnMut() -> Result<KvPart, BackendError>,
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(GenerateEvent<'_>) -> ControlFlow<()>,
) -> Result<Generation, GenerateError> {
    let past = import.tokens();
    let begun = Begun::new(backend, prompt, past, options)?;
    let mut sequence = import.sequence;
    let mut progress = |progress| on_event(GenerateEvent::Progress(progress));
    let hidden = prefill_by(&begun.tokens, &mut progress, |chunk, done| {
        sequence.forward_arriving(Input::Tokens(chunk), past + done, arrive)
    })?;
    begun.write(backend, sequence, hidden, options, on_event)
}

/// A generation whose prompt fits behind its context.
struct Begun {
    started: Instant,
    tokens: Vec<u32>,
    /// Tokens of the context.
    before: usize,
    /// Most tokens to write.
    budget: usize,
    bounds: Option<Bounds>,
}

impl Begun {
    fn new(
        backend: &dyn Backend,
        prompt: &Prompt,
        before: usize,
        options: &GenerateOptions,
    ) -> Result<Self, GenerateError> {
        let started = Instant::now();
        let bounds = Bounds::new(backend, options)?;
        let tokens = prompt.tokens(backend)?;
        let window = backend.info().max_positions;
        let room = window.saturating_sub(before + tokens.len());
        if room == 0 {
            return Err(GenerateError::ContextWindow { context: before, prompt: tokens.len(), window });
        }
        Ok(Self { started, before, budget: options.max_tokens.min(room), tokens, bounds })
    }

    /// Decodes behind the prompt, whose last hidden state is `hidden`, until something stops it. Without one the prompt
    /// was not read to its end, because the caller said so.
    fn write(
        self,
        backend: &dyn Backend,
        mut sequence: Box<dyn Sequence>,
        hidden: Option<Vec<f32>>,
        options: &GenerateOptions,
        on_event: &mut dyn FnMut(GenerateEvent<'_>) -> ControlFlow<()>,
    ) -> Result<Generation, GenerateError> {
        let Self { started, tokens: prompt_tokens, before, budget, mut bounds } = self;
        let prefill_time = started.elapsed();
        let mut writer = Writer::new(backend, options, on_event);
        let mut sampler = Sampler::new(options.sampling.clone());
        let cancelled = hidden.is_none();
        let mut hidden = hidden.unwrap_or_default();
        let stop = loop {
            if cancelled {
                break StopReason::Cancelled;
            }
            if writer.tokens.len() == budget {
                let by_window = budget < options.max_tokens;
                break if by_window { StopReason::ContextWindow } else { StopReason::MaxTokens };
            }
            let mut logits = backend.logits(&hidden)?;
            let token = writer.tokens.len();
            let next = match &mut bounds {
                Some(bounds) => bounds.choose(&mut sampler, &mut logits, token)?,
                None => Some(sampler.next(&logits).map_err(|NonFinite| GenerateError::NonFinite { token })?),
            };
            let Some(next) = next else { break StopReason::Grammar };
            if let Some(stop) = writer.write(next)? {
                break stop;
            }
            if let Some(bounds) = &mut bounds {
                bounds.accept(next)?;
            }
            if writer.tokens.len() < budget {
                hidden = sequence.forward(Input::Tokens(&[next]))?;
            }
        };
        let (text, tokens) = writer.finish()?;
        Ok(Generation {
            text,
            tokens,
            stop,
            prompt_tokens: prompt_tokens.len(),
            context_tokens: before,
            prefill_time,
            decode_time: started.elapsed() - prefill_time,
        })
    }
}

/// Tokens in, text out through the stop rules.
struct Writer<'a> {
    backend: &'a dyn Backend,
    options: &'a GenerateOptions,
    on_event: &'a mut dyn FnMut(GenerateEvent<'_>) -> ControlFlow<()>,
    stream: TextStream<'a>,
    stops: StopStrings<'a>,
    tokens: Vec<u32>,
    text: String,
    stopped_by_text: bool,
}

impl<'a> Writer<'a> {
    fn new(
        backend: &'a dyn Backend,
        options: &'a GenerateOptions,
        on_event: &'a mut dyn FnMut(GenerateEvent<'_>) -> ControlFlow<()>,
    ) -> Self {
        Self {
            backend,
            options,
            on_event,
            stream: TextStream::new(backend.codec()),
            stops: StopStrings::new(&options.stop_strings),
            tokens: Vec::new(),
            text: String::new(),
            stopped_by_text: false,
        }
    }

    fn write(&mut self, token: u32) -> Result<Option<StopReason>, BackendError> {
        if self.backend.info().stop_tokens.contains(&token) || self.options.stop_tokens.contains(&token) {
            return Ok(Some(StopReason::Token(token)));
        }
        self.tokens.push(token);
        let piece = self.stream.push(token)?;
        let (out, stopped) = self.stops.push(&piece);
        self.stopped_by_text = stopped;
        if self.emit(&out).is_break() || (self.on_event)(GenerateEvent::Token(token)).is_break() {
            return Ok(Some(StopReason::Cancelled));
        }
        Ok(stopped.then_some(StopReason::Text))
    }

    fn emit(&mut self, piece: &str) -> ControlFlow<()> {
        if piece.is_empty() {
            return ControlFlow::Continue(());
        }
        self.text.push_str(piece);
        (self.on_event)(GenerateEvent::Text(piece))
    }

    fn finish(mut self) -> Result<(String, Vec<u32>), BackendError> {
        if !self.stopped_by_text {
            let codec = self.backend.codec();
            let rest = std::mem::replace(&mut self.stream, TextStream::new(codec)).finish()?;
            let mut stops = std::mem::replace(&mut self.stops, StopStrings::new(&[]));
            let (out, stopped) = stops.push(&rest);
            let held = if stopped { String::new() } else { stops.finish() };
            let _ = self.emit(&(out + &held));
        }
        Ok((self.text, self.tokens))
    }
}
