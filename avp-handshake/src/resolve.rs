//! What two models can share: the six rules, and the check of weights on top of them.

use std::collections::HashSet;
use std::fmt;

use avp_wire::Mode;

use crate::ModelIdentity;
use crate::fingerprint::Fingerprint;

/// Token strings that two vocabularies must share for rule 5.
pub const MIN_SHARED_TOKENS: usize = 100;

/// What resolution may use beside the two identities.
#[derive(Clone, Copy, Default)]
pub struct ResolveOptions<'a> {
    /// Which projection maps there are (rule 4); none by default.
    pub maps: Option<&'a dyn MapLookup>,
    /// How many raw token strings the two vocabularies share (rule 5), where both are at hand.
    pub shared_tokens: Option<usize>,
    /// Fingerprint of the local checkpoint.
    pub local_weights: Option<Fingerprint>,
    /// Fingerprint that the peer announced.
    pub remote_weights: Option<Fingerprint>,
    /// What to do where one of the fingerprints is not known.
    pub policy: VerificationPolicy,
}

/// Tells whether a projection map from one model to another is at hand.
///
/// The hashes come from peers: compare them, never build a path of them.
pub trait MapLookup {
    /// Whether there is a map from the model with `source_hash` to the one with `target_hash`, both in full.
    fn has_map(&self, source_hash: &str, target_hash: &str) -> bool;
}

impl<F: Fn(&str, &str) -> bool> MapLookup for F {
    fn has_map(&self, source_hash: &str, target_hash: &str) -> bool {
        self(source_hash, target_hash)
    }
}

/// What two peers agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// How the session talks: contexts and distributions, or text only.
    pub mode: Mode,
    /// Names the projection where one is needed, else empty; goes into `avp_map_id`. It may hold text of the peer:
    /// it is an id to compare, never a path.
    pub map_id: String,
    /// The rule that decided.
    pub path: ResolutionPath,
    /// Whether the two checkpoints are known to be one.
    pub verification: Verification,
}

impl Resolution {
    /// Whether the peers count as running the same model, so that a KV cache may be handed over as it is.
    #[must_use]
    pub fn same_model(&self) -> bool {
        matches!(self.path, ResolutionPath::HashMatch | ResolutionPath::StructuralMatch)
    }
}

/// The rule of docs/spec/handshake.md, section 3, that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResolutionPath {
    /// Rule 1: equal model hashes.
    HashMatch,
    /// Rule 2: equal family, width and depth.
    StructuralMatch,
    /// Rule 3: equal tokenizers.
    SharedTokenizer,
    /// Rule 4: a projection map is at hand.
    AvpMapFile,
    /// Rule 5: enough token strings in common.
    VocabOverlap,
    /// Rule 6: nothing in common.
    JsonFallback,
}

impl ResolutionPath {
    /// The name that the SDK uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HashMatch => "hash_match",
            Self::StructuralMatch => "structural_match",
            Self::SharedTokenizer => "shared_tokenizer",
            Self::AvpMapFile => "avp_map_file",
            Self::VocabOverlap => "vocab_overlap",
            Self::JsonFallback => "json_fallback",
        }
    }
}

impl fmt::Display for ResolutionPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the two fingerprints say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verification {
    /// Both are known and equal: one checkpoint.
    Verified,
    /// Both are known and differ: two checkpoints.
    Different,
    /// At least one is not known.
    Unverified,
}

impl Verification {
    /// Compares two fingerprints.
    #[must_use]
    pub fn of(local: Option<&Fingerprint>, remote: Option<&Fingerprint>) -> Self {
        match (local, remote) {
            (Some(a), Some(b)) if a == b => Self::Verified,
            (Some(_), Some(_)) => Self::Different,
            _ => Self::Unverified,
        }
    }

    /// `verified`, `different` or `unverified`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Different => "different",
            Self::Unverified => "unverified",
        }
    }
}

/// Whether models may count as the same where their weights could not be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VerificationPolicy {
    /// They may, and the session is marked [`Verification::Unverified`].
    #[default]
    Allow,
    /// They may not: rules 1 and 2 need equal fingerprints.
    Require,
}

/// Applies the six rules in order; the first that fits decides.
///
/// Rules 1 and 2 take two fine-tunes of one architecture for the same model. Where both peers announce fingerprints
/// and these differ, the two rules are off; where one does not, `options.policy` decides (docs/spec/handshake.md,
/// section 5).
///
/// ```
/// use avp_handshake::{ModelIdentity, ResolutionPath, ResolveOptions, resolve};
/// let model = ModelIdentity { model_hash: "44136fa3".into(), ..Default::default() };
/// assert_eq!(resolve(&model, &model, &ResolveOptions::default()).path, ResolutionPath::HashMatch);
/// ```
#[must_use]
pub fn resolve(local: &ModelIdentity, remote: &ModelIdentity, options: &ResolveOptions<'_>) -> Resolution {
    let verification = Verification::of(options.local_weights.as_ref(), options.remote_weights.as_ref());
    let may_be_same = match verification {
        Verification::Verified => true,
        Verification::Different => false,
        Verification::Unverified => options.policy == VerificationPolicy::Allow,
    };
    let same = if may_be_same { same_model(local, remote) } else { None };
    let (path, map_id) = match same {
        Some(path) => (path, String::new()),
        None => projection(local, remote, options),
    };
    let mode = match path {
        ResolutionPath::JsonFallback => Mode::Json,
        _ => Mode::Latent,
    };
    Resolution { mode, map_id, path, verification }
}

/// Rules 1 and 2.
fn same_model(local: &ModelIdentity, remote: &ModelIdentity) -> Option<ResolutionPath> {
    if equal_and_set(&local.model_hash, &remote.model_hash) {
        return Some(ResolutionPath::HashMatch);
    }
    let structural = equal_and_set(&local.model_family, &remote.model_family)
        && local.hidden_dim > 0
        && local.hidden_dim == remote.hidden_dim
        && local.num_layers > 0
        && local.num_layers == remote.num_layers;
    structural.then_some(ResolutionPath::StructuralMatch)
}

/// Rules 3 to 6, each with its map id.
fn projection(
    local: &ModelIdentity,
    remote: &ModelIdentity,
    options: &ResolveOptions<'_>,
) -> (ResolutionPath, String) {
    if equal_and_set(&local.tokenizer_hash, &remote.tokenizer_hash) {
        return (ResolutionPath::SharedTokenizer, format!("vocab:{}", first_16(&local.tokenizer_hash)));
    }
    let hashed = !local.model_hash.is_empty() && !remote.model_hash.is_empty();
    if hashed && options.maps.is_some_and(|maps| maps.has_map(&local.model_hash, &remote.model_hash)) {
        let id = format!("{}_{}", first_16(&local.model_hash), first_16(&remote.model_hash));
        return (ResolutionPath::AvpMapFile, id);
    }
    match options.shared_tokens {
        Some(n) if n >= MIN_SHARED_TOKENS => (ResolutionPath::VocabOverlap, format!("vocab_overlap:{n}")),
        _ => (ResolutionPath::JsonFallback, String::new()),
    }
}

fn equal_and_set(a: &str, b: &str) -> bool {
    !a.is_empty() && a == b
}

/// The first 16 characters, or all of them where there are fewer.
fn first_16(hash: &str) -> &str {
    hash.char_indices().nth(16).and_then(|(end, _)| hash.get(..end)).unwrap_or(hash)
}

/// How many token strings two vocabularies share, each counted once, compared as they are: the count of rule 5.
pub fn count_shared_tokens<'a>(
    local: impl IntoIterator<Item = &'a str>,
    remote: impl IntoIterator<Item = &'a str>,
) -> usize {
    let mut tokens: HashSet<&str> = local.into_iter().collect();
    // Removing what was found counts a string once, however often it comes.
    remote.into_iter().filter(|token| tokens.remove(token)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ResolutionPath::*;
    use proptest::prelude::*;

    fn model(hash: &str, family: &str, tokenizer: &str) -> ModelIdentity {
        ModelIdentity {
            model_family: family.into(),
            model_hash: hash.into(),
            hidden_dim: 64,
            num_layers: 2,
            tokenizer_hash: tokenizer.into(),
            ..Default::default()
        }
    }

    fn weights(byte: u8) -> Option<Fingerprint> {
        Some(Fingerprint::from_bytes([byte; 32]))
    }

    // spec: handshake 5.3
    #[test]
    fn differing_weights_turn_the_same_model_rules_off() {
        let (a, b) = (model("h", "qwen2", "t"), model("h", "qwen2", "t"));
        let mut options =
            ResolveOptions { local_weights: weights(1), remote_weights: weights(2), ..Default::default() };
        let resolution = resolve(&a, &b, &options);
        assert_eq!((resolution.path, resolution.verification), (SharedTokenizer, Verification::Different));
        let other = model("h", "qwen2", "u");
        assert_eq!(resolve(&a, &other, &options).path, JsonFallback);
        options.remote_weights = weights(1);
        let resolution = resolve(&a, &b, &options);
        assert_eq!((resolution.path, resolution.verification), (HashMatch, Verification::Verified));
    }

    // spec: handshake 5.4, handshake 5.5
    #[test]
    fn unknown_weights_are_marked_and_the_policy_decides() {
        let (a, b) = (model("h", "qwen2", "t"), model("i", "qwen2", "t"));
        for (local, remote) in [(None, None), (weights(1), None), (None, weights(1))] {
            let mut options =
                ResolveOptions { local_weights: local, remote_weights: remote, ..Default::default() };
            let resolution = resolve(&a, &b, &options);
            assert_eq!(
                (resolution.path, resolution.verification),
                (StructuralMatch, Verification::Unverified)
            );
            options.policy = VerificationPolicy::Require;
            assert_eq!(resolve(&a, &b, &options).path, SharedTokenizer);
        }
    }

    // spec: handshake 3.2
    #[test]
    fn a_map_is_looked_up_by_full_hashes_and_only_when_both_are_known() {
        let known = |s: &str, t: &str| s == "1".repeat(64) && t == "2".repeat(64);
        let options = ResolveOptions { maps: Some(&known), ..Default::default() };
        let (a, b) = (model(&"1".repeat(64), "a", ""), model(&"2".repeat(64), "b", ""));
        assert_eq!(resolve(&a, &b, &options).map_id, "1111111111111111_2222222222222222");
        assert_eq!(resolve(&b, &a, &options).path, JsonFallback);
        let same_prefix = model(&format!("{}f", "1".repeat(63)), "a", "");
        assert_eq!(resolve(&same_prefix, &b, &options).path, JsonFallback);
        let always = |_: &str, _: &str| true;
        let options = ResolveOptions { maps: Some(&always), ..Default::default() };
        assert_eq!(resolve(&a, &model("", "b", ""), &options).path, JsonFallback);
    }

    // spec: handshake 3.4
    #[test]
    fn rule_5_counts_distinct_raw_strings() {
        assert_eq!(count_shared_tokens(["a", "b", "\u{120}c"], ["b", "b", "\u{2581}c"]), 1);
    }

    proptest! {
        #[test]
        fn hostile_hashes_never_panic_and_ids_hold_at_most_16_characters_of_each(
            hash in any::<String>(), tokenizer in any::<String>(), other in any::<String>()
        ) {
            let always = |_: &str, _: &str| true;
            let options = ResolveOptions { maps: Some(&always), shared_tokens: Some(100), ..Default::default() };
            let resolution = resolve(&model(&hash, "a", &tokenizer), &model(&other, "b", &tokenizer), &options);
            prop_assert!(resolution.map_id.chars().count() <= 33);
        }
    }
}
