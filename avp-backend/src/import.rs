//! A context that arrives in parts.

use std::fmt;
#[cfg(unix)]
use std::os::fd::OwnedFd;

use avp_handshake::{Verification, VerificationPolicy};
use avp_wire::slab::SlabId;
use avp_wire::{DType, KvHeader, KvPayload, Metadata, ext};

use crate::transfer::Claim;
use crate::{Backend, BackendError, Context, ContextError, KvPart, KvRange, ModelInfo, Sequence};

/// A context on its way into an engine: judged by what its sender says of it, before any of it has come.
pub struct ContextImport {
    pub(crate) sequence: Box<dyn Sequence>,
    header: KvHeader,
    latent_steps: usize,
    verification: Verification,
}

impl ContextImport {
    /// Begins the import of a context that `metadata` and `header` describe, those of its frame or of its manifest.
    ///
    /// # Errors
    /// [`ContextError`] naming what does not fit this model.
    pub fn begin(
        metadata: &Metadata,
        header: &KvHeader,
        backend: &dyn Backend,
        policy: VerificationPolicy,
    ) -> Result<Self, ContextError> {
        let verification = check_context(metadata, header, backend.info(), policy)?;
        let tokens = header.seq_len as usize;
        let extra = |key| metadata.extra.get(key).map(String::as_str);
        let latent_steps =
            extra(ext::NUM_STEPS).unwrap_or("0").parse().map_err(|_| ContextError::NumSteps)?;
        let sequence = backend.new_sequence(tokens)?;
        Ok(Self { sequence, header: *header, latent_steps, verification })
    }

    /// Takes a slab: `kv` holds the layers and tokens of `id`, in any order of slabs.
    ///
    /// # Errors
    /// [`ContextError::Backend`] if it is no part of this context, or the engine fails.
    pub fn insert(&mut self, id: &SlabId, kv: &KvPayload) -> Result<(), ContextError> {
        let part = part(id, kv);
        Ok(self.sequence.import_kv(&part.range, part.dtype, &part.bytes)?)
    }

    pub(crate) fn insert_all(&mut self, kv: &KvPayload) -> Result<(), ContextError> {
        let KvHeader { num_layers: layers, seq_len: tokens, .. } = self.header;
        self.insert(&SlabId { first_layer: 0, layers, first_token: 0, tokens }, kv)
    }

    /// Takes the whole context from memory of the engine's device, which another process shared.
    ///
    /// # Errors
    /// As [`Sequence::take_shared_kv`]; the import is to be dropped then.
    #[cfg(unix)]
    pub fn take_shared(&mut self, memory: OwnedFd) -> Result<(), BackendError> {
        self.sequence.take_shared_kv(self.tokens(), self.header.dtype, memory)
    }

    /// Tokens of the context, whether they have come or not.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.header.seq_len as usize
    }

    /// Whether all of it has come.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.sequence.len() == self.tokens()
    }

    /// Whether its checkpoint is known to be the one that takes it.
    #[must_use]
    pub fn verification(&self) -> Verification {
        self.verification
    }

    /// The same import once more, to go on independently: what has come is shared.
    ///
    /// # Errors
    /// The engine fails.
    pub fn fork(&self) -> Result<Self, BackendError> {
        Ok(Self { sequence: self.sequence.fork()?, ..*self })
    }

    /// The context. All of it must have come.
    #[must_use]
    pub fn finish(self, backend: &dyn Backend) -> Context {
        debug_assert!(self.is_complete());
        Context::imported(backend, self.sequence, self.latent_steps, self.verification)
    }
}

impl fmt::Debug for ContextImport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextImport")
            .field("tokens", &self.tokens())
            .field("complete", &self.sequence.len())
            .finish_non_exhaustive()
    }
}

/// Holds a context against `model` by what `metadata` and `header` say of it.
///
/// # Errors
/// [`ContextError`] naming what does not fit.
pub fn check_context(
    metadata: &Metadata,
    header: &KvHeader,
    model: &ModelInfo,
    policy: VerificationPolicy,
) -> Result<Verification, ContextError> {
    check_agreement(metadata, header)?;
    let extra = |key| metadata.extra.get(key).map(String::as_str);
    let claim = Claim {
        family: extra(ext::MODEL_FAMILY).unwrap_or_default(),
        hidden_dim: metadata.hidden_dim,
        num_layers: header.num_layers,
        num_kv_heads: header.num_kv_heads,
        head_dim: header.head_dim,
        weights: extra(ext::WEIGHTS),
    };
    let verification = claim.check(model, policy)?;
    let (tokens, window) = (header.seq_len as usize, model.max_positions);
    if tokens > window {
        return Err(ContextError::ContextWindow { tokens, window });
    }
    Ok(verification)
}

/// A slab as a part of an engine's cache.
#[must_use]
pub fn part(id: &SlabId, kv: &KvPayload) -> KvPart {
    let run = |first: u32, count: u32| first as usize..first as usize + count as usize;
    let (layers, tokens) = (run(id.first_layer, id.layers), run(id.first_token, id.tokens));
    KvPart { range: KvRange { layers, tokens }, dtype: kv.header().dtype, bytes: kv.planes_bytes() }
}

/// Metadata and KV header say the same where both speak.
fn check_agreement(metadata: &Metadata, header: &KvHeader) -> Result<(), ContextError> {
    if metadata.num_layers != header.num_layers {
        let (metadata, header) = (metadata.num_layers.to_string(), header.num_layers.to_string());
        return Err(ContextError::Contradiction { what: "num_layers", metadata, header });
    }
    if metadata.dtype != DType::from(header.dtype) {
        let (metadata, header) = (format!("{:?}", metadata.dtype), format!("{:?}", header.dtype));
        return Err(ContextError::Contradiction { what: "dtype", metadata, header });
    }
    Ok(())
}
