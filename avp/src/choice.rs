//! What is handed over in a session: the KV cache, or text.

use std::fmt;

use avp_backend::ContextError;
use avp_handshake::{ModelIdentity, Resolution};

/// What a receiver gets of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handover {
    /// There was no context: the prompt alone.
    Nothing,
    /// The KV cache.
    Kv,
    /// The text that the context was computed from, because the KV cache would not do.
    Text {
        /// Why not the cache.
        why: String,
    },
}

impl Handover {
    /// `none`, `kv` or `text`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Kv => "kv",
            Self::Text { .. } => "text",
        }
    }
}

impl fmt::Display for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("the prompt alone"),
            Self::Kv => f.write_str("KV cache"),
            Self::Text { why } => write!(f, "JSON text ({why})"),
        }
    }
}

/// Decides what becomes of a context of the model `local` in a session with `remote`.
///
/// Rule 2 of the published resolution compares family, width and depth only; a KV cache also needs equal heads,
/// so a session that counts as the same model may still hand over text.
#[must_use]
pub fn choose(local: &ModelIdentity, remote: &ModelIdentity, resolution: &Resolution) -> Handover {
    if resolution.same_model() {
        let heads = |id: &ModelIdentity| (id.num_kv_heads, id.head_dim);
        if heads(local) == heads(remote) {
            return Handover::Kv;
        }
        let ((a, b), (c, d)) = (heads(local), heads(remote));
        return text(format!("the models' caches differ: {a} KV heads of {b} here, {c} of {d} there"));
    }
    if resolution.mode == avp_wire::Mode::Latent {
        return text(format!(
            "another model there ({}): projection ({}) is not available yet",
            name(remote),
            resolution.path
        ));
    }
    text(format!("another model there ({}), nothing in common ({})", name(remote), resolution.path))
}

/// The reason after a receiver refused the cache that the session promised.
pub(crate) fn refused(message: &str) -> Handover {
    text(format!("the peer refused the KV cache: {message}"))
}

fn text(why: String) -> Handover {
    Handover::Text { why }
}

/// A peer's name for its model, made harmless for a terminal.
fn name(identity: &ModelIdentity) -> String {
    let known = [&identity.model_id, &identity.model_family].into_iter().find(|name| !name.is_empty());
    known.map_or("unknown", |name| name).chars().filter(|c| !c.is_control()).take(80).collect()
}

/// Whether an import error means that the models do not fit, so that text may still do.
pub(crate) fn is_incompatible(error: &ContextError) -> bool {
    matches!(
        error,
        ContextError::OtherModel { .. }
            | ContextError::OtherWeights { .. }
            | ContextError::Unverified { .. }
            | ContextError::ContextWindow { .. }
    )
}
