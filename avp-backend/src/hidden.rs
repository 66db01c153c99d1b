//! Hidden states as a context of their own: a few rows instead of a KV cache, which another model can be given too.

use std::path::Path;

use avp_handshake::{ModelIdentity, Verification, VerificationPolicy};
use avp_wire::ext::{self, ExtError};
use avp_wire::{Bytes, DType, Frame, Metadata, Mode, PayloadType};

use crate::realign::{LatentProjection, ProjectionError};
use crate::transfer::Claim;
use crate::{Backend, BackendError, Context, ContextError, ContextStamp, Input, Sequence, ending};

/// Most rows: as many as any window has positions, and a bound for what a file may claim.
const MAX_ROWS: usize = 1 << 20;

/// What a model had in mind: the hidden states of the last positions that it read and of its latent steps,
/// `[n, hidden_dim]`, as the output head takes them.
///
/// It goes back into the same model ([`inject`](Self::inject)), and as distributions over tokens into others
/// ([`distributions`](crate::distributions)). Files and frames carry it ([`to_frame`](Self::to_frame)).
#[derive(Clone, Debug, PartialEq)]
pub struct HiddenStates {
    rows: Vec<f32>,
    identity: ModelIdentity,
    weights: Option<String>,
    latent_steps: usize,
    prompt_tokens: Option<usize>,
    ending: Option<f32>,
}

/// Why there are no hidden states in something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HiddenError {
    /// The frame holds something else.
    #[error("the frame holds no hidden states but {0}")]
    OtherPayload(
        /// What it holds.
        &'static str,
    ),
    /// Rows that are not as long as a hidden state, or none.
    #[error(
        "hidden states of shape {shape:?} and {bytes} bytes are not [n, {hidden_dim}] in f32, n at least 1"
    )]
    Shape {
        /// What the frame says.
        shape: Vec<u32>,
        /// Bytes that it has.
        bytes: usize,
        /// Length of a row.
        hidden_dim: u32,
    },
    /// NaN or infinity.
    #[error("a hidden state is not finite; think again")]
    NonFinite,
    /// An entry of `extra` that is not what it must be.
    #[error("the value of {key} is none: {value}")]
    Extra {
        /// The key.
        key: &'static str,
        /// The first characters of the value.
        value: String,
    },
    /// They belong to another model.
    #[error(transparent)]
    Model(#[from] ContextError),
    /// A projection failed.
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    /// The engine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl HiddenStates {
    /// Hidden states `[n, hidden_dim]` of `backend`, of which the last `latent_steps` are of latent steps.
    pub(crate) fn computed(
        backend: &dyn Backend,
        rows: Vec<f32>,
        latent_steps: usize,
        prompt_tokens: usize,
        ending: f32,
    ) -> Self {
        let info = backend.info();
        Self {
            rows,
            identity: info.identity.clone(),
            weights: info.weights.clone(),
            latent_steps,
            prompt_tokens: Some(prompt_tokens),
            ending: Some(ending),
        }
    }

    /// The rows `[n, hidden_dim]`: positions of the prompt, then latent steps.
    #[must_use]
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Length of a row.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.identity.hidden_dim as usize
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len() / self.dim().max(1)
    }

    /// Whether there are none, which cannot be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many of the rows, the last ones, are of latent steps.
    #[must_use]
    pub fn latent_steps(&self) -> usize {
        self.latent_steps
    }

    /// Tokens that the model had read, in all, where known.
    #[must_use]
    pub fn prompt_tokens(&self) -> Option<usize> {
        self.prompt_tokens
    }

    /// How probably the model ends its turn after the token that it holds most probable behind the prompt, where known: whether
    /// that token is all it has to say.
    #[must_use]
    pub fn ending(&self) -> Option<f32> {
        self.ending
    }

    /// The model that had them. Of one that came in a frame the attention heads are not known, which are 0.
    #[must_use]
    pub fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    /// Its checkpoint, where known: `avp.weights`.
    #[must_use]
    pub fn weights(&self) -> Option<&str> {
        self.weights.as_deref()
    }

    /// As a frame, f32 `[n, hidden_dim]`.
    #[must_use]
    pub fn to_frame(&self, stamp: &ContextStamp) -> Frame {
        let described = stamp.metadata(&self.identity, self.latent_steps, self.weights());
        let mut metadata = Metadata {
            payload_type: PayloadType::HiddenState,
            dtype: DType::Float32,
            tensor_shape: vec![u32::try_from(self.len()).unwrap_or(u32::MAX), self.identity.hidden_dim],
            ..described
        };
        if stamp.extensions {
            let tokens = self.prompt_tokens.map(|tokens| (ext::TOKENS, tokens.to_string()));
            let ending = self.ending.map(|ending| (ext::ENDING, ending.to_string()));
            let known = tokens.into_iter().chain(ending);
            metadata.extra.extend(known.map(|(key, value)| (key.to_owned(), value)));
        }
        let payload: Vec<u8> = self.rows.iter().flat_map(|x| x.to_le_bytes()).collect();
        Frame::new(metadata, payload)
    }

    /// What a frame holds, whichever model it is of.
    ///
    /// # Errors
    /// [`HiddenError`] naming what is wrong with it.
    pub fn from_frame(frame: &Frame) -> Result<Self, HiddenError> {
        let Frame { metadata, payload, .. } = frame;
        if metadata.mode != Mode::Latent {
            return Err(HiddenError::OtherPayload("text"));
        }
        if metadata.payload_type != PayloadType::HiddenState {
            return Err(HiddenError::OtherPayload("a KV cache"));
        }
        let rows = rows(metadata, payload)?;
        let extra = |key: &str| metadata.extra.get(key).map(String::as_str);
        let identity = ModelIdentity {
            model_family: extra(ext::MODEL_FAMILY).unwrap_or_default().to_owned(),
            model_id: metadata.model_id.clone(),
            model_hash: extra(ext::MODEL_HASH).unwrap_or_default().to_owned(),
            hidden_dim: metadata.hidden_dim,
            num_layers: metadata.num_layers,
            ..ModelIdentity::default()
        };
        let len = rows.len() / metadata.hidden_dim.max(1) as usize;
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let steps = parsed(metadata, ext::NUM_STEPS, ext::parse_count)?.map_or(0, count);
        Ok(Self {
            rows,
            identity,
            weights: extra(ext::WEIGHTS).map(str::to_owned),
            // Thinking that went before counts in a cache, and leaves no rows here.
            latent_steps: steps.min(len.saturating_sub(1)),
            prompt_tokens: parsed(metadata, ext::TOKENS, ext::parse_count)?.map(count),
            ending: parsed(metadata, ext::ENDING, ext::parse_probability)?,
        })
    }

    /// Checks that they are of `backend`'s model.
    ///
    /// # Errors
    /// [`ContextError`] naming what differs.
    pub fn check(
        &self,
        backend: &dyn Backend,
        policy: VerificationPolicy,
    ) -> Result<Verification, ContextError> {
        let mine = &backend.info().identity;
        // Hidden states do not depend on how attention is cut into heads.
        let identity = ModelIdentity {
            num_kv_heads: mine.num_kv_heads,
            head_dim: mine.head_dim,
            ..self.identity.clone()
        };
        Claim::of(&identity, self.weights()).check(backend.info(), policy)
    }

    /// A context of the same model that holds them: each is made an input embedding, as a latent step makes it
    /// ([`LatentProjection`]), and read. `cache_dir` as in [`ThinkOptions`](crate::ThinkOptions).
    ///
    /// # Errors
    /// [`HiddenError`] where they are of another model, or the engine fails.
    pub fn inject(
        &self,
        backend: &dyn Backend,
        policy: VerificationPolicy,
        cache_dir: Option<&Path>,
    ) -> Result<Context, HiddenError> {
        let verification = self.check(backend, policy)?;
        let projection = LatentProjection::for_backend(backend, cache_dir)?;
        let mut embeddings = Vec::with_capacity(self.rows.len());
        for row in self.rows.chunks_exact(self.dim()) {
            embeddings.extend(projection.apply(backend, row)?);
        }
        Ok(Context::of_embeddings(backend, &embeddings)?.of_verification(verification))
    }
}

fn rows(metadata: &Metadata, payload: &Bytes) -> Result<Vec<f32>, HiddenError> {
    let dim = metadata.hidden_dim as usize;
    let wrong = || HiddenError::Shape {
        shape: metadata.tensor_shape.clone(),
        bytes: payload.len(),
        hidden_dim: metadata.hidden_dim,
    };
    let len = payload.len() / 4;
    let is_shape = match metadata.tensor_shape.as_slice() {
        // One state is `[D]`, or `[1, D]`.
        [width] => *width == metadata.hidden_dim && len == dim,
        [count, width] => *width == metadata.hidden_dim && (*count as usize).checked_mul(dim) == Some(len),
        _ => false,
    };
    let is_f32 = metadata.dtype == DType::Float32 && payload.len() == len * 4;
    if dim == 0 || len == 0 || len / dim > MAX_ROWS || !is_shape || !is_f32 {
        return Err(wrong());
    }
    let value = |bytes: &[u8]| bytes.try_into().map(f32::from_le_bytes);
    let rows: Vec<f32> = payload.chunks_exact(4).filter_map(|bytes| value(bytes).ok()).collect();
    if rows.iter().all(|x| x.is_finite()) { Ok(rows) } else { Err(HiddenError::NonFinite) }
}

/// The number that an entry of `extra` holds.
fn parsed<T>(
    metadata: &Metadata,
    key: &'static str,
    parse: impl FnOnce(&'static str, &str) -> Result<T, ExtError>,
) -> Result<Option<T>, HiddenError> {
    let Some(value) = metadata.extra.get(key) else { return Ok(None) };
    let invalid = |_| HiddenError::Extra { key, value: value.chars().take(24).collect() };
    parse(key, value).map(Some).map_err(invalid)
}

/// How probably the model ends its turn after the most probable token behind `hidden`, its state after `sequence`.
pub(crate) fn ending_behind(
    backend: &dyn Backend,
    sequence: &dyn Sequence,
    hidden: &[f32],
) -> Result<f32, ProjectionError> {
    let logits = backend.logits(hidden)?;
    let most_probable = (0..).zip(&logits).max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id);
    let stop_tokens = &backend.info().stop_tokens;
    if stop_tokens.contains(&most_probable) {
        return Ok(ending(&logits, stop_tokens)?);
    }
    let mut next = sequence.fork()?;
    next.reserve(1)?;
    let hidden = next.forward(Input::Tokens(&[most_probable]))?;
    Ok(ending(&backend.logits(&hidden)?, stop_tokens)?)
}
