//! The two traits an engine implements: [`Backend`] (a loaded model) and [`Sequence`] (one KV cache).

use std::collections::HashMap;
use std::ops::Range;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use avp_handshake::ModelIdentity;
use avp_wire::{Bytes, KvDtype};

use crate::{BackendError, LatentProjection, ProjectionError, TokenPieces};

/// A loaded model. Shared between threads; every running generation owns a [`Sequence`] of its own.
///
/// The vocabulary is the waist: whatever crosses between models goes through [`logits`](Backend::logits) and
/// [`embed_mix`](Backend::embed_mix) and needs nothing else of an engine.
pub trait Backend: Send + Sync {
    /// What the model is: identity, shapes, limits.
    fn info(&self) -> &ModelInfo;

    /// Text to token ids and back.
    fn codec(&self) -> &dyn TextCodec;

    /// An empty sequence with room for `capacity` tokens. An engine may take the memory as layers are first written.
    ///
    /// # Errors
    /// [`BackendError::ContextWindow`] if `capacity` exceeds [`ModelInfo::max_positions`].
    fn new_sequence(&self, capacity: usize) -> Result<Box<dyn Sequence>, BackendError>;

    /// Output-head logits `[n, vocab_size]` of hidden states `[n, hidden_dim]`, row-major, before any
    /// temperature and including the model's logit cap where it has one.
    fn logits(&self, hidden: &[f32]) -> Result<Vec<f32>, BackendError>;

    /// Weighted sums of input embeddings, one row per mix: `[mixes.len(), hidden_dim]`, as layer 0 takes them
    /// (scaled where the model scales its embeddings).
    fn embed_mix(&self, mixes: &[TokenMix<'_>]) -> Result<Vec<f32>, BackendError>;

    /// Softmax over the [`logits`](Backend::logits) of one hidden state `[hidden_dim]`, and the
    /// [`embed_mix`](Backend::embed_mix) of it, `[hidden_dim]`, for engines that do both in one pass over the
    /// table of a tied model. At most `left_out` of the probability mass is left out. `None`, the default, sends
    /// the caller through the two operations.
    ///
    /// # Errors
    /// [`ProjectionError::NonFinite`] if a logit is NaN or infinite.
    fn soft_embedding(&self, hidden: &[f32], left_out: f32) -> Result<Option<Vec<f32>>, ProjectionError> {
        let _ = (hidden, left_out);
        Ok(None)
    }

    /// The device in whose memory other processes of this machine can take over caches ([`Sequence::share_kv`]), by a name that is
    /// the same in all of them; `None` where there is none.
    fn shared_device(&self) -> Option<&str> {
        None
    }

    /// Mean L2 norm of the rows of the input-embedding table, as layer 0 takes them.
    fn mean_embedding_norm(&self) -> Result<f32, BackendError>;

    /// The two products that realignment of an untied model is solved from.
    fn realignment_products(&self) -> Result<RealignmentProducts, BackendError>;
}

/// One run of tokens through a model, with its KV cache.
///
/// A sequence is append-only: [`forward`](Sequence::forward) adds positions at the end. It keeps its model
/// alive.
pub trait Sequence: Send + Sync {
    /// Number of cached positions.
    fn len(&self) -> usize;

    /// True while nothing is cached.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of positions that fit without growing.
    fn capacity(&self) -> usize;

    /// Makes room for `additional` further positions.
    ///
    /// # Errors
    /// [`BackendError::ContextWindow`] if the total would exceed [`ModelInfo::max_positions`].
    fn reserve(&mut self, additional: usize) -> Result<(), BackendError>;

    /// Runs the model over `input`, appends its keys and values, and returns the hidden state of the last
    /// position, `[hidden_dim]`: the output of the final norm, what the output head multiplies.
    ///
    /// Grows the cache if needed. On error the cache keeps its former length.
    fn forward(&mut self, input: Input<'_>) -> Result<Vec<f32>, BackendError>;

    /// Like [`forward`](Sequence::forward), but returns the hidden states of all input positions,
    /// `[n, hidden_dim]`.
    fn forward_all(&mut self, input: Input<'_>) -> Result<Vec<f32>, BackendError>;

    /// Type in which the engine stores keys and values.
    fn kv_dtype(&self) -> KvDtype;

    /// Writes canonical KV of `range` to `out`: for each layer K then V, each
    /// `[kv_heads, tokens, head_dim]` little-endian in [`kv_dtype`](Sequence::kv_dtype), K after RoPE in
    /// rotate-half order. `out` must be exactly as long.
    fn export_kv(&self, range: &KvRange, out: &mut [u8]) -> Result<(), BackendError>;

    /// Appends or completes cached positions from canonical KV bytes of type `dtype`, laid out as in
    /// [`export_kv`](Sequence::export_kv). Layers and token ranges may come in any order and in several calls.
    /// `range.tokens` must start within [`capacity`](Sequence::capacity), or where a layer ends.
    /// [`len`](Sequence::len) counts the positions that every layer holds without a gap.
    fn import_kv(&mut self, range: &KvRange, dtype: KvDtype, bytes: &[u8]) -> Result<(), BackendError>;

    /// Like [`forward`](Sequence::forward) behind `past` positions of which some may still be on their way: takes
    /// parts of the cache from `arrive`, which blocks until there is one, as long as they are needed. An engine that
    /// computes layer by layer needs those of the first layer before it starts, and the others later; by default all
    /// are taken first.
    ///
    /// # Errors
    /// Those of `arrive`, [`import_kv`](Sequence::import_kv) and `forward`. What was imported stays.
    fn forward_arriving(
        &mut self,
        input: Input<'_>,
        past: usize,
        arrive: &mut dyn FnMut() -> Result<KvPart, BackendError>,
    ) -> Result<Vec<f32>, BackendError> {
        while self.len() < past {
            let part = arrive()?;
            self.import_kv(&part.range, part.dtype, &part.bytes)?;
        }
        self.forward(input)
    }

    /// Takes `steps` latent steps from the hidden state `hidden` `[hidden_dim]` on, each of which appends a position, and returns the
    /// hidden states of all of them, `[steps, hidden_dim]`, finite or not. Nothing, and nothing done, where the engine has no faster
    /// way than [`LatentProjection::apply`] and [`forward`](Sequence::forward) in turn; an engine on a device of its own has one,
    /// that leaves there what each step gives to the next.
    ///
    /// # Errors
    /// As [`forward`](Sequence::forward).
    fn latent_steps(
        &mut self,
        hidden: &[f32],
        steps: usize,
        projection: &LatentProjection,
    ) -> Result<Option<Vec<f32>>, BackendError> {
        let _ = (hidden, steps, projection);
        Ok(None)
    }

    /// Copies the canonical KV of all layers and positions, laid out as [`export_kv`](Sequence::export_kv) says, to memory of
    /// `device` that whoever has the descriptor can map; nothing where that is not where the cache lies
    /// ([`Backend::shared_device`]).
    ///
    /// # Errors
    /// The device has no memory left, or its driver refuses.
    #[cfg(unix)]
    fn share_kv(&self, device: &str) -> Result<Option<OwnedFd>, BackendError> {
        let _ = device;
        Ok(None)
    }

    /// Fills an empty cache from memory that another process [shared](Sequence::share_kv): `tokens` positions of type `dtype`.
    /// The memory is judged, and let go of: nothing that its maker does later changes the cache.
    ///
    /// # Errors
    /// The descriptor is of something else, or of less; the types differ. The cache is to be dropped then.
    #[cfg(unix)]
    fn take_shared_kv(&mut self, tokens: usize, dtype: KvDtype, memory: OwnedFd) -> Result<(), BackendError> {
        let _ = (tokens, dtype, memory);
        Err(BackendError::Unsupported {
            what: "a cache in memory of a device".to_owned(),
            supported: "caches in memory of the host".to_owned(),
        })
    }

    /// An independent continuation of this sequence, of the same capacity. Cheap: the cache is shared until one side
    /// appends.
    fn fork(&self) -> Result<Box<dyn Sequence>, BackendError>;
}

/// What a model reads.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Token ids.
    Tokens(&'a [u32]),
    /// Input embeddings `[n, hidden_dim]`, row-major, as layer 0 takes them.
    Embeddings(&'a [f32]),
}

/// A weighting of the vocabulary, from which [`Backend::embed_mix`] makes one input embedding.
#[derive(Clone, Copy, Debug)]
pub enum TokenMix<'a> {
    /// Few tokens: ids and their weights, equally long.
    Sparse {
        /// Token ids, each below the vocabulary size.
        ids: &'a [u32],
        /// One weight per id.
        weights: &'a [f32],
    },
    /// The whole vocabulary: one weight per id, `[n]` with `n` at most the table's rows.
    Dense(&'a [f32]),
}

/// A run of layers by a run of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRange {
    /// Layers, 0-based.
    pub layers: Range<usize>,
    /// Token positions, 0-based.
    pub tokens: Range<usize>,
}

/// A part of a cache, as [`Sequence::import_kv`] takes it.
#[derive(Clone, Debug)]
pub struct KvPart {
    /// Which layers and tokens.
    pub range: KvRange,
    /// Type of the elements.
    pub dtype: KvDtype,
    /// Canonical planes, without a header.
    pub bytes: Bytes,
}

/// What a loaded model is.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// What the hello announces: family, id, hashes and shapes.
    pub identity: ModelIdentity,
    /// Fingerprint of the checkpoint (`avp.weights`), hex, where the engine knows it.
    pub weights: Option<String>,
    /// Where the model was loaded from.
    pub source: PathBuf,
    /// Number of attention (query) heads.
    pub num_heads: usize,
    /// Rows of the output head.
    pub vocab_size: usize,
    /// Context window in tokens.
    pub max_positions: usize,
    /// Whether the output head is the input-embedding table.
    pub tied_embeddings: bool,
    /// Type of the weights and of the KV cache.
    pub dtype: KvDtype,
    /// Where it computes: `cpu`, `cuda:0`.
    pub device: String,
    /// Ids that end a generation.
    pub stop_tokens: Vec<u32>,
    /// Jinja source of the chat template, if the model has one.
    pub chat_template: Option<String>,
    /// Special tokens that the template may name, e.g. `bos_token`.
    pub special_tokens: HashMap<String, String>,
}

/// Text to token ids and back.
pub trait TextCodec: Send + Sync {
    /// Token ids of `text`. Special tokens written out in the text become their ids; with `add_special`, those
    /// that the tokenizer adds by itself (BOS) come in front.
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, BackendError>;

    /// Text of `ids`, lossy where bytes are not UTF-8 (U+FFFD). `skip_special` leaves special tokens out.
    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, BackendError>;

    /// Every token string with its id, added tokens included: what tokenizer_hash and vocabulary overlap use.
    fn vocab(&self) -> HashMap<String, u32>;

    /// The bytes that each token writes, which [`decode`](TextCodec::decode) without special tokens puts together: what a
    /// grammar is followed by ([`GenerateOptions::grammar`](crate::GenerateOptions::grammar)).
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] if what a token writes depends on more than the token.
    fn pieces(&self) -> Result<Arc<TokenPieces>, BackendError>;

    /// The bytes that each token writes in the middle of a text, where it may write fewer at the beginning: what tokens of
    /// different vocabularies are compared by.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] if that is not known.
    fn inner_pieces(&self) -> Result<Arc<TokenPieces>, BackendError> {
        self.pieces()
    }
}

/// Gram matrix and cross product of the embedding tables, in f64 row-major `[hidden_dim, hidden_dim]`.
#[derive(Clone, Debug)]
pub struct RealignmentProducts {
    /// `E_out^T E_out`.
    pub gram: Vec<f64>,
    /// `E_out^T E_in`.
    pub cross: Vec<f64>,
}
