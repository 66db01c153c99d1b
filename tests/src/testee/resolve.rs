//! The six rules.

use avp_handshake::fingerprint::Fingerprint;
use avp_handshake::{ResolveOptions, VerificationPolicy};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::error::Failure;
use super::form::read;
use super::identity::from_object;

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Policy {
    #[default]
    Allow,
    Require,
}

impl From<Policy> for VerificationPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Allow => Self::Allow,
            Policy::Require => Self::Require,
        }
    }
}

#[derive(Deserialize)]
struct Resolve {
    local: Value,
    remote: Value,
    #[serde(default)]
    maps: Vec<(String, String)>,
    #[serde(default)]
    shared_tokens: Option<usize>,
    #[serde(default)]
    local_weights: Option<String>,
    #[serde(default)]
    remote_weights: Option<String>,
    #[serde(default)]
    policy: Policy,
}

pub(super) fn resolve(fields: Value) -> Answer {
    let request: Resolve = read(fields)?;
    let maps = |source: &str, target: &str| request.maps.iter().any(|(s, t)| s == source && t == target);
    let weights = |text: &Option<String>| -> Result<Option<Fingerprint>, Failure> {
        text.as_deref().map(str::parse).transpose().map_err(Failure::invalid)
    };
    let options = ResolveOptions {
        maps: Some(&maps),
        shared_tokens: request.shared_tokens,
        local_weights: weights(&request.local_weights)?,
        remote_weights: weights(&request.remote_weights)?,
        policy: request.policy.into(),
    };
    let resolution =
        avp_handshake::resolve(&from_object(&request.local)?, &from_object(&request.remote)?, &options);
    Ok(json!({
        "mode": resolution.mode.number(),
        "avp_map_id": resolution.map_id,
        "resolution_path": resolution.path.as_str(),
        "verification": resolution.verification.as_str(),
    }))
}
