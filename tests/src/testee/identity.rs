//! Who a model is: its identity and hashes.

use avp_handshake::json::Json;
use avp_handshake::{ModelIdentity, model_hash, tokenizer_hash};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answer;
use super::error::Failure;
use super::form::read;

#[derive(Deserialize)]
struct Config {
    config: String,
}

pub(super) fn hash_model(fields: Value) -> Answer {
    let Config { config } = read(fields)?;
    let config = Json::parse(config.as_bytes()).map_err(Failure::invalid)?;
    Ok(json!({ "hash": model_hash(&config) }))
}

#[derive(Deserialize)]
struct Vocabulary {
    vocab: Vec<(String, i64)>,
}

pub(super) fn hash_tokenizer(fields: Value) -> Answer {
    let Vocabulary { vocab } = read(fields)?;
    Ok(json!({ "hash": tokenizer_hash(vocab) }))
}

pub(super) fn of_config(fields: Value) -> Answer {
    let Config { config } = read(fields)?;
    let identity = ModelIdentity::from_config_json(config.as_bytes()).map_err(Failure::invalid)?;
    Ok(json!({
        "model_family": identity.model_family,
        "model_id": identity.model_id,
        "model_hash": identity.model_hash,
        "hidden_dim": identity.hidden_dim,
        "num_layers": identity.num_layers,
        "num_kv_heads": identity.num_kv_heads,
        "head_dim": identity.head_dim,
        "tokenizer_hash": identity.tokenizer_hash,
    }))
}

/// An identity object of a request, read as one of a hello is.
pub(super) fn from_object(object: &Value) -> Result<ModelIdentity, Failure> {
    Ok(ModelIdentity::from_json(&Json::from(object))?)
}
