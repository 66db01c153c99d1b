//! Thinking: prefill a prompt, then latent steps, each feeding the model its own last hidden state.

use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::hidden::ending_behind;
use crate::prompt::{Prompt, PromptError};
use crate::realign::{LatentProjection, ProjectionError};
use crate::{Backend, BackendError, Context, ContextError, HiddenStates, Input, NonFinite, Sequence};

/// Tokens per forward pass of a prefill: bounds the attention scores in memory.
pub(crate) const PREFILL_CHUNK: usize = 512;
/// Latent steps that an engine may take before anybody looks whether they are finite.
const LATENT_GROUP: usize = 8;

/// How an agent thinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinkOptions {
    /// Latent steps after the prefill; 0 is a pure prefill.
    pub steps: usize,
    /// Where the realignment of untied models is kept between runs; `None` computes it each time.
    pub cache_dir: Option<PathBuf>,
    /// How many of the prompt's last positions leave their hidden states in the context, beside those of all latent steps
    /// ([`Context::hidden`]): what a model of another kind can be given. 0 keeps none. Costs a decode step, in which the model
    /// says whether it has said all.
    pub hidden_positions: usize,
}

impl Default for ThinkOptions {
    /// Twenty steps, the reference SDK's default.
    fn default() -> Self {
        Self { steps: 20, cache_dir: None, hidden_positions: 0 }
    }
}

/// How far a [`think`] or the prefill of a [`generate`](crate::generate) has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Prompt tokens processed, of how many.
    Prefill {
        /// Tokens done.
        done: usize,
        /// Tokens in the prompt.
        total: usize,
    },
    /// Latent steps done, of how many.
    Latent {
        /// Steps done.
        done: usize,
        /// Steps asked for.
        total: usize,
    },
}

/// Why thinking ended early. The context it started from is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThinkError {
    /// NaN or infinity in the hidden state.
    #[error("the model's hidden state is not finite after {}; the model or its type cannot carry this input", step_name(*step))]
    NonFinite {
        /// The latent step, counted from 1; 0 is the prefill.
        step: usize,
    },
    /// Prompt and context do not fit the model's window.
    #[error(
        "{context} tokens of context, {prompt} of prompt and {steps} latent steps do not fit the window of {window} tokens; shorten the prompt, think in fewer steps, or start from a shorter context"
    )]
    ContextWindow {
        /// Tokens of the prior context.
        context: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Latent steps.
        steps: usize,
        /// The window.
        window: usize,
    },
    /// The prompt could not be made into tokens.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The prior context does not belong to this model.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// A projection failed.
    #[error("latent projection: {0}")]
    Projection(ProjectionError),
    /// The engine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

fn step_name(step: usize) -> String {
    if step == 0 { "the prefill".to_owned() } else { format!("latent step {step}") }
}

/// Reads `prompt` after `context`, then thinks `options.steps` latent steps, and returns what was computed.
///
/// `context` is not changed. A latent step takes the last hidden state, projects it to an input embedding
/// ([`LatentProjection`]) and runs the model on it.
///
/// # Errors
/// [`ThinkError`]; nothing is kept of a thinking that failed.
pub fn think(
    backend: &dyn Backend,
    prompt: &Prompt,
    context: Option<&Context>,
    options: &ThinkOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Context, ThinkError> {
    let tokens = prompt.tokens(backend)?;
    let before = context.map_or(0, Context::len);
    let window = backend.info().max_positions;
    let total = before.saturating_add(tokens.len()).saturating_add(options.steps);
    if total > window {
        let (prompt, steps) = (tokens.len(), options.steps);
        return Err(ThinkError::ContextWindow { context: before, prompt, steps, window });
    }
    let mut sequence = start(backend, context, total - before)?;
    let (mut hidden, mut rows) = prefill(sequence.as_mut(), &tokens, options.hidden_positions, progress)?;
    check_finite(&hidden, 0)?;
    let keeps_hidden = options.hidden_positions > 0;
    let ending = match keeps_hidden {
        true => ending_behind(backend, sequence.as_ref(), &hidden).map_err(ThinkError::Projection)?,
        false => 0.0,
    };
    if options.steps > 0 {
        let projection = LatentProjection::for_backend(backend, options.cache_dir.as_deref())
            .map_err(ThinkError::Projection)?;
        let mut done = 0;
        while done < options.steps {
            let group = LATENT_GROUP.min(options.steps - done);
            let (computed, steps) = match sequence.latent_steps(&hidden, group, &projection)? {
                Some(computed) => (computed, group),
                None => (latent_step(backend, sequence.as_mut(), &hidden, &projection, done + 1)?, 1),
            };
            let (expected, got) = (steps * hidden.len(), computed.len());
            if expected != got {
                return Err(
                    BackendError::Shape { what: "hidden states of latent steps", expected, got }.into()
                );
            }
            for state in computed.chunks_exact(hidden.len()) {
                done += 1;
                check_finite(state, done)?;
                progress(Progress::Latent { done, total: options.steps });
            }
            let before_last = got - hidden.len();
            hidden.copy_from_slice(&computed[before_last..]);
            if keeps_hidden {
                rows.extend_from_slice(&computed);
            }
        }
    }
    let prior_steps = context.map_or(0, Context::latent_steps);
    // What a file says of its latent steps may be more than it holds.
    let read = before.saturating_sub(prior_steps) + tokens.len();
    let kept = keeps_hidden.then(|| HiddenStates::computed(backend, rows, options.steps, read, ending));
    Ok(Context::computed(backend, sequence, prior_steps + options.steps, hidden, kept, context))
}

/// One latent step by the two operations that every engine has.
fn latent_step(
    backend: &dyn Backend,
    sequence: &mut dyn Sequence,
    hidden: &[f32],
    projection: &LatentProjection,
    step: usize,
) -> Result<Vec<f32>, ThinkError> {
    let embedding = projection.apply(backend, hidden).map_err(|error| match error {
        ProjectionError::NonFinite(NonFinite) => ThinkError::NonFinite { step },
        other => ThinkError::Projection(other),
    })?;
    Ok(sequence.forward(Input::Embeddings(&embedding))?)
}

/// A sequence to continue `context` (or nothing) with room for `additional` tokens.
pub(crate) fn start(
    backend: &dyn Backend,
    context: Option<&Context>,
    additional: usize,
) -> Result<Box<dyn Sequence>, StartError> {
    match context {
        None => Ok(backend.new_sequence(additional)?),
        Some(context) => {
            context.check_model(backend)?;
            let mut sequence = context.sequence().fork()?;
            sequence.reserve(additional)?;
            Ok(sequence)
        }
    }
}

/// Why a sequence could not be started.
#[derive(Debug)]
pub(crate) enum StartError {
    Context(ContextError),
    Backend(BackendError),
}

impl From<ContextError> for StartError {
    fn from(error: ContextError) -> Self {
        Self::Context(error)
    }
}

impl From<BackendError> for StartError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

impl From<StartError> for ThinkError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Context(error) => Self::Context(error),
            StartError::Backend(error) => Self::Backend(error),
        }
    }
}

/// Reads `tokens` in chunks; the hidden state of the last one, `[hidden_dim]`, and those of the last `kept`.
fn prefill(
    sequence: &mut dyn Sequence,
    tokens: &[u32],
    kept: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Vec<f32>, Vec<f32>), BackendError> {
    let mut on = |event| {
        progress(event);
        ControlFlow::Continue(())
    };
    let first_kept = tokens.len().saturating_sub(kept);
    let mut rows = Vec::new();
    let hidden = prefill_by(tokens, &mut on, |chunk, done| {
        let input = Input::Tokens(chunk);
        if kept <= 1 || done + chunk.len() <= first_kept {
            return sequence.forward(input);
        }
        let all = sequence.forward_all(input)?;
        let dim = all.len() / chunk.len();
        rows.extend_from_slice(&all[first_kept.saturating_sub(done) * dim..]);
        Ok(all[all.len() - dim..].to_vec())
    })?;
    let hidden = hidden.unwrap_or_default();
    if kept == 1 {
        rows.clone_from(&hidden);
    }
    Ok((hidden, rows))
}

/// Reads `tokens` in chunks through `forward`, which is told how many went before. `None` if `progress` broke it off.
pub(crate) fn prefill_by(
    tokens: &[u32],
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    mut forward: impl FnMut(&[u32], usize) -> Result<Vec<f32>, BackendError>,
) -> Result<Option<Vec<f32>>, BackendError> {
    let mut hidden = Vec::new();
    let mut done = 0;
    for chunk in tokens.chunks(PREFILL_CHUNK) {
        hidden = forward(chunk, done)?;
        done += chunk.len();
        if progress(Progress::Prefill { done, total: tokens.len() }).is_break() {
            return Ok(None);
        }
    }
    Ok(Some(hidden))
}

fn check_finite(hidden: &[f32], step: usize) -> Result<(), ThinkError> {
    if hidden.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(ThinkError::NonFinite { step }) }
}
