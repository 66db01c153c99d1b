//! What an agent computed: immutable, cheap to fork, bound to the model that made it.

use std::fmt;
use std::sync::Arc;

use avp_handshake::{ModelIdentity, Verification, VerificationPolicy};

use crate::transfer::Claim;
use crate::{Backend, BackendError, ContextError, HiddenStates, Input, Sequence};

/// The KV cache of everything an agent has read and thought, and where it came from.
///
/// A context never changes. [`think`](crate::think) and [`generate`](crate::generate) start from a copy-on-write
/// fork of it, so one context can serve many continuations at once. Cloning copies a pointer.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    sequence: Box<dyn Sequence>,
    identity: ModelIdentity,
    weights: Option<String>,
    latent_steps: usize,
    last_hidden: Option<Vec<f32>>,
    hidden: Option<HiddenStates>,
    verification: Verification,
}

impl Context {
    /// A context that `sequence` holds, computed by `backend` after `prior`.
    pub(crate) fn computed(
        backend: &dyn Backend,
        sequence: Box<dyn Sequence>,
        latent_steps: usize,
        last_hidden: Vec<f32>,
        hidden: Option<HiddenStates>,
        prior: Option<&Self>,
    ) -> Self {
        let verification = prior.map_or(Verification::Verified, Self::verification);
        Self(Arc::new(Inner {
            hidden,
            ..Inner::assemble(backend, sequence, latent_steps, Some(last_hidden), verification)
        }))
    }

    pub(crate) fn imported(
        backend: &dyn Backend,
        sequence: Box<dyn Sequence>,
        latent_steps: usize,
        verification: Verification,
    ) -> Self {
        Self(Arc::new(Inner::assemble(backend, sequence, latent_steps, None, verification)))
    }

    /// A context that has read input embeddings `[n, hidden_dim]` and nothing else: those of distributions of another model, for
    /// one ([`embed_distributions`](crate::embed_distributions)).
    ///
    /// # Errors
    /// As [`Sequence::forward`].
    pub fn of_embeddings(backend: &dyn Backend, embeddings: &[f32]) -> Result<Self, BackendError> {
        let positions = embeddings.len() / (backend.info().identity.hidden_dim as usize).max(1);
        let mut sequence = backend.new_sequence(positions)?;
        let hidden = sequence.forward(Input::Embeddings(embeddings))?;
        Ok(Self(Arc::new(Inner::assemble(backend, sequence, 0, Some(hidden), Verification::Verified))))
    }

    /// The same, made from what is known of its checkpoint so much.
    pub(crate) fn of_verification(self, verification: Verification) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(inner) => Self(Arc::new(Inner { verification, ..inner })),
            Err(shared) => Self(shared),
        }
    }

    /// Cached positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.sequence.len()
    }

    /// True if nothing is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Latent steps among the cached positions, over all thinking that led here.
    #[must_use]
    pub fn latent_steps(&self) -> usize {
        self.0.latent_steps
    }

    /// The hidden state `[hidden_dim]` of the last position; unknown for contexts that came over a wire.
    #[must_use]
    pub fn last_hidden(&self) -> Option<&[f32]> {
        self.0.last_hidden.as_deref()
    }

    /// Its hidden states, where they were kept ([`ThinkOptions::hidden_positions`](crate::ThinkOptions::hidden_positions)).
    #[must_use]
    pub fn hidden(&self) -> Option<&HiddenStates> {
        self.0.hidden.as_ref()
    }

    /// The model that made it.
    #[must_use]
    pub fn identity(&self) -> &ModelIdentity {
        &self.0.identity
    }

    /// The checkpoint that made it, where known: `avp.weights`.
    #[must_use]
    pub fn weights(&self) -> Option<&str> {
        self.0.weights.as_deref()
    }

    /// Whether its checkpoint is known to be the one that holds it.
    #[must_use]
    pub fn verification(&self) -> Verification {
        self.0.verification
    }

    /// The cache. Fork it to continue.
    #[must_use]
    pub fn sequence(&self) -> &dyn Sequence {
        self.0.sequence.as_ref()
    }

    /// Bytes of its canonical KV, without the header.
    #[must_use]
    pub fn kv_bytes(&self) -> usize {
        let id = &self.0.identity;
        let per_layer =
            2 * id.num_kv_heads as usize * id.head_dim as usize * self.0.sequence.kv_dtype().size();
        self.len() * per_layer * id.num_layers as usize
    }

    /// Checks that `backend` is the model that this context belongs to.
    ///
    /// # Errors
    /// [`ContextError`] naming what differs.
    pub(crate) fn check_model(&self, backend: &dyn Backend) -> Result<(), ContextError> {
        let claim = Claim::of(&self.0.identity, self.weights());
        claim.check(backend.info(), VerificationPolicy::Allow).map(drop)
    }
}

impl Inner {
    fn assemble(
        backend: &dyn Backend,
        sequence: Box<dyn Sequence>,
        latent_steps: usize,
        last_hidden: Option<Vec<f32>>,
        verification: Verification,
    ) -> Self {
        let info = backend.info();
        Self {
            sequence,
            identity: info.identity.clone(),
            weights: info.weights.clone(),
            latent_steps,
            last_hidden,
            hidden: None,
            verification,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("model", &self.0.identity.model_id)
            .field("tokens", &self.len())
            .field("latent_steps", &self.0.latent_steps)
            .field("verification", &self.0.verification)
            .finish_non_exhaustive()
    }
}
