//! Contexts to and from wire frames, and the question whether a context belongs to a model.

use avp_handshake::{ModelIdentity, Verification, VerificationPolicy};
use avp_wire::{BufferPool, Frame, KvError, KvHeader, Metadata, Mode, PayloadType, ext};

use crate::{Backend, BackendError, Context, ContextImport, KvRange, ModelInfo};

/// What a context says of the model that made it.
pub(crate) struct Claim<'a> {
    pub(crate) family: &'a str,
    pub(crate) hidden_dim: u32,
    pub(crate) num_layers: u32,
    pub(crate) num_kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) weights: Option<&'a str>,
}

/// What a context's frame says beside the cache: for whom it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextStamp {
    /// The negotiated session; empty in files.
    pub session_id: String,
    /// The agent that made the context.
    pub source_agent_id: String,
    /// The agent that is to take it.
    pub target_agent_id: String,
    /// The model hash that the receiver expects, if not this model's own: an SDK receiver takes nothing else.
    pub model_hash: Option<String>,
    /// Whether to add the keys of our extensions (`avp.weights`): in files and to peers that announced them.
    pub extensions: bool,
}

impl ContextStamp {
    /// What every context's frame says: between whom it travels, and of the model that made it.
    pub(crate) fn metadata(
        &self,
        identity: &ModelIdentity,
        latent_steps: usize,
        weights: Option<&str>,
    ) -> Metadata {
        let hash = self.model_hash.as_ref().unwrap_or(&identity.model_hash);
        let mut extra = vec![
            (ext::MODEL_HASH, hash.clone()),
            (ext::MODEL_FAMILY, identity.model_family.clone()),
            (ext::NUM_STEPS, latent_steps.to_string()),
        ];
        extra.extend(weights.filter(|_| self.extensions).map(|weights| (ext::WEIGHTS, weights.to_owned())));
        Metadata {
            session_id: self.session_id.clone(),
            source_agent_id: self.source_agent_id.clone(),
            target_agent_id: self.target_agent_id.clone(),
            model_id: identity.model_id.clone(),
            hidden_dim: identity.hidden_dim,
            num_layers: identity.num_layers,
            mode: Mode::Latent,
            extra: extra.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            ..Metadata::default()
        }
    }
}

/// Why a frame is not a context for this model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The payload is not a KV cache, or lies about its shape.
    #[error("not a context: {0}")]
    Payload(#[from] KvError),
    /// The metadata and the KV header disagree.
    #[error("the frame contradicts itself: its metadata says {what} {metadata}, its KV header {header}")]
    Contradiction {
        /// Which property.
        what: &'static str,
        /// The metadata's.
        metadata: String,
        /// The KV header's.
        header: String,
    },
    /// The number of latent steps is not a number.
    #[error("the context's num_steps is not a number")]
    NumSteps,
    /// More positions than this model's window.
    #[error("the context holds {tokens} tokens, the model's window is {window}; hand over a shorter context")]
    ContextWindow {
        /// Tokens in the context.
        tokens: usize,
        /// The window.
        window: usize,
    },
    /// The cache is empty.
    #[error("the context holds no tokens; think on a prompt first")]
    Empty,
    /// Made by a model of another shape or family.
    #[error(
        "the context was made by another model: its {what} is {context}, this model's is {model}; load the model that made it, or hand over text"
    )]
    OtherModel {
        /// Which property differs.
        what: &'static str,
        /// The context's.
        context: String,
        /// The model's.
        model: String,
    },
    /// Made by another checkpoint of the same architecture.
    #[error(
        "the context was made by another checkpoint: its weights are {context}.., this model's are {model}..; load the checkpoint that made it, or hand over text"
    )]
    OtherWeights {
        /// First digits of the context's fingerprint.
        context: String,
        /// First digits of the model's.
        model: String,
    },
    /// The policy wants a fingerprint and there is none on one side.
    #[error(
        "the context cannot be verified: {missing} has no weights fingerprint (avp.weights); allow unverified contexts to take it all the same"
    )]
    Unverified {
        /// Which side has none.
        missing: &'static str,
    },
    /// The engine failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl Context {
    /// This context as a wire frame: canonical KV in a pooled buffer, copied once.
    ///
    /// # Errors
    /// [`ContextError`] if it is empty, larger than its header can say, or the engine fails.
    pub fn to_frame(&self, stamp: &ContextStamp, pool: &BufferPool) -> Result<Frame, ContextError> {
        let header = self.kv_header()?;
        let mut buffer = pool.get(header.payload_len()?, KvHeader::SIZE);
        let planes = header.write_to(&mut buffer)?;
        let layers = 0..header.num_layers as usize;
        self.sequence().export_kv(&KvRange { layers, tokens: 0..self.len() }, planes)?;
        Ok(Frame::new(self.metadata(stamp), buffer.freeze()))
    }

    /// Shape and type of its canonical KV.
    ///
    /// # Errors
    /// [`ContextError::Empty`], or more tokens than a header can say.
    pub fn kv_header(&self) -> Result<KvHeader, ContextError> {
        if self.is_empty() {
            return Err(ContextError::Empty);
        }
        let identity = self.identity();
        Ok(KvHeader {
            num_layers: identity.num_layers,
            num_kv_heads: identity.num_kv_heads,
            head_dim: identity.head_dim,
            seq_len: u32::try_from(self.len()).map_err(|_| KvError::Overflow)?,
            dtype: self.sequence().kv_dtype(),
        })
    }

    /// What its frame, or its manifest, says beside the cache.
    #[must_use]
    pub fn metadata(&self, stamp: &ContextStamp) -> Metadata {
        let described = stamp.metadata(self.identity(), self.latent_steps(), self.weights());
        let dtype = self.sequence().kv_dtype().into();
        Metadata { payload_type: PayloadType::KvCache, dtype, ..described }
    }

    /// Takes a frame into `backend`, if it is a context of its model.
    ///
    /// # Errors
    /// [`ContextError`] naming what does not fit; nothing is kept of it.
    pub fn from_frame(
        frame: &Frame,
        backend: &dyn Backend,
        policy: VerificationPolicy,
    ) -> Result<Self, ContextError> {
        let payload = frame.kv()?;
        let mut import = ContextImport::begin(&frame.metadata, payload.header(), backend, policy)?;
        import.insert_all(&payload)?;
        Ok(import.finish(backend))
    }
}

impl<'a> Claim<'a> {
    pub(crate) fn of(identity: &'a ModelIdentity, weights: Option<&'a str>) -> Self {
        Self {
            family: &identity.model_family,
            hidden_dim: identity.hidden_dim,
            num_layers: identity.num_layers,
            num_kv_heads: identity.num_kv_heads,
            head_dim: identity.head_dim,
            weights,
        }
    }

    /// Compares with `model`: shapes and family always, checkpoints where both are known.
    pub(crate) fn check(
        &self,
        model: &ModelInfo,
        policy: VerificationPolicy,
    ) -> Result<Verification, ContextError> {
        let mine = &model.identity;
        let differs = |what, context: &dyn ToString, model: &dyn ToString| {
            Err(ContextError::OtherModel { what, context: context.to_string(), model: model.to_string() })
        };
        if self.family != mine.model_family {
            return differs("model family", &self.family, &mine.model_family);
        }
        let numbers = [
            ("hidden_dim", self.hidden_dim, mine.hidden_dim),
            ("number of layers", self.num_layers, mine.num_layers),
            ("number of KV heads", self.num_kv_heads, mine.num_kv_heads),
            ("head_dim", self.head_dim, mine.head_dim),
        ];
        if let Some((what, context, model)) = numbers.into_iter().find(|(_, context, model)| context != model)
        {
            return differs(what, &context, &model);
        }
        match (self.weights, model.weights.as_deref()) {
            (Some(context), Some(model)) if context == model => Ok(Verification::Verified),
            (Some(context), Some(model)) => {
                Err(ContextError::OtherWeights { context: digits(context), model: digits(model) })
            }
            (context, _) if policy == VerificationPolicy::Require => {
                let missing = if context.is_none() { "the context" } else { "this model" };
                Err(ContextError::Unverified { missing })
            }
            _ => Ok(Verification::Unverified),
        }
    }
}

fn digits(fingerprint: &str) -> String {
    fingerprint.chars().filter(char::is_ascii_graphic).take(12).collect()
}
