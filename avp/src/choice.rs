//! What is handed over in a session: the KV cache, distributions, or text.

use std::fmt;

use avp_backend::ContextError;
use avp_handshake::{ModelIdentity, Resolution};

/// What a receiver got of what was computed before.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Handover {
    /// There was nothing: the prompt alone.
    Nothing,
    /// The KV cache.
    Kv,
    /// Distributions over the tokens that both models have.
    Distribution {
        /// How many, one for each position.
        positions: usize,
        /// The largest mass of tokens that were not sent.
        left_out: f32,
        /// What the quality gate said against it, where it advises only.
        advice: Option<String>,
    },
    /// Input embeddings by a linear map, within a process.
    Embeddings {
        /// How many.
        positions: usize,
        /// What the quality gate said against it, where it advises only.
        advice: Option<String>,
    },
    /// The text that was read before, because nothing else would do.
    Text {
        /// Why not.
        why: String,
    },
}

/// Which way a KV cache went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KvPath {
    /// As frames, through memory of the host.
    Host {
        /// Why it did not stay on the device that both engines compute on; `None` where there is none.
        why: Option<String>,
    },
    /// Through memory of the device, in one piece.
    Device,
}

impl KvPath {
    /// `host` or `device`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Host { .. } => "host",
            Self::Device => "device",
        }
    }

    /// Why it is not the device.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Host { why } => why.as_deref(),
            Self::Device => None,
        }
    }
}

impl Handover {
    /// `none`, `kv`, `distribution`, `embeddings` or `text`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Kv => "kv",
            Self::Distribution { .. } => "distribution",
            Self::Embeddings { .. } => "embeddings",
            Self::Text { .. } => "text",
        }
    }

    /// Why it is text, or what the quality gate says against it.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Text { why } => Some(why),
            Self::Distribution { advice, .. } | Self::Embeddings { advice, .. } => advice.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Display for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("the prompt alone"),
            Self::Kv => f.write_str("KV cache"),
            Self::Distribution { positions, left_out, advice } => {
                write!(f, "distributions of {} ({:.2} % left out)", counted(*positions), left_out * 100.0)?;
                against(f, advice.as_deref())
            }
            Self::Embeddings { positions, advice } => {
                write!(f, "embeddings of {} by a linear map", counted(*positions))?;
                against(f, advice.as_deref())
            }
            Self::Text { why } => write!(f, "JSON text ({why})"),
        }
    }
}

fn counted(positions: usize) -> String {
    format!("{positions} position{}", if positions == 1 { "" } else { "s" })
}

fn against(f: &mut fmt::Formatter<'_>, advice: Option<&str>) -> fmt::Result {
    advice.map_or(Ok(()), |advice| write!(f, ", against the quality gate: {advice}"))
}

/// What a session allows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Choice {
    /// The KV cache: the same model.
    Kv,
    /// Distributions over tokens: another model that has some of them.
    Distribution,
    /// Text.
    Text {
        /// Why nothing else.
        why: String,
    },
}

/// Decides what can be handed over of the model `local` in a session with `remote`.
///
/// Rule 2 of the published resolution compares family, width and depth only; a KV cache also needs equal heads,
/// so a session that counts as the same model may still hand over text. Between peers that announce their vocabularies rule 5
/// may hold although the handshake says `json_fallback`: it is applied when there is something to project.
#[must_use]
pub fn choose(local: &ModelIdentity, remote: &ModelIdentity, resolution: &Resolution) -> Choice {
    if resolution.same_model() {
        let heads = |id: &ModelIdentity| (id.num_kv_heads, id.head_dim);
        if heads(local) == heads(remote) {
            return Choice::Kv;
        }
        let ((a, b), (c, d)) = (heads(local), heads(remote));
        let why = format!("the models' caches differ: {a} KV heads of {b} here, {c} of {d} there");
        return Choice::Text { why };
    }
    if resolution.mode == avp_wire::Mode::Latent {
        return Choice::Distribution;
    }
    let why = format!("another model there ({}), nothing in common ({})", name(remote), resolution.path);
    Choice::Text { why }
}

/// Why a session with another model gets text where there is nothing to project.
pub(crate) fn nothing_to_project(remote: &ModelIdentity, resolution: &Resolution) -> String {
    format!(
        "another model there ({}, {}), which takes distributions, and these are made of hidden states: think with \
         `--output hidden`, and ask with the model that thought",
        name(remote),
        resolution.path
    )
}

/// The reason after a receiver refused what the session promised.
pub(crate) fn refused(what: &str, message: &str) -> Handover {
    Handover::Text { why: format!("the peer refused the {what}: {message}") }
}

/// A peer's name for its model, made harmless for a terminal.
pub(crate) fn name(identity: &ModelIdentity) -> String {
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
