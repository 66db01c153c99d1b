//! Identity of a model from its Hugging Face `config.json` (docs/spec/handshake.md, section 8).

use crate::json::{Json, JsonError};
use crate::{ModelIdentity, model_hash};

/// Why a config gives no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is not JSON.
    #[error("config.json is not JSON: {0}")]
    Json(#[from] JsonError),
    /// The document is not an object.
    #[error("config.json holds {found} where an object is needed")]
    NotAnObject {
        /// What is there.
        found: &'static str,
    },
    /// A field has a type that it cannot have.
    #[error("config.json: {field} is {found}, it should be {expected}")]
    WrongType {
        /// Name of the field.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A number does not fit.
    #[error("config.json: {field} is {value}, it should lie between 0 and 4294967295")]
    OutOfRange {
        /// Name of the field.
        field: &'static str,
        /// The number.
        value: String,
    },
}

impl ModelIdentity {
    /// Identity of the model that a `config.json` describes, with an empty tokenizer hash.
    ///
    /// # Errors
    /// [`ConfigError`] where the text is not a JSON object or a dimension is not a whole number.
    pub fn from_config_json(text: &[u8]) -> Result<Self, ConfigError> {
        Self::from_config(&Json::parse(text)?)
    }

    /// Identity of the model that a config describes, as the SDK's `extract_model_identity` finds it, with an empty
    /// tokenizer hash.
    ///
    /// The keys of GPT-2 (`n_embd`, `n_layer`, `n_head`) stand in for missing ones. A `num_key_value_heads` that is
    /// there but null is unknown and gives 0, where the SDK sends null. A config that states no width of its own but
    /// has a `text_config` (multimodal models) takes its dimensions from there; the SDK reports zeros.
    ///
    /// # Errors
    /// As [`ModelIdentity::from_config_json`].
    pub fn from_config(config: &Json) -> Result<Self, ConfigError> {
        if !matches!(config, Json::Object(_)) {
            return Err(ConfigError::NotAnObject { found: config.kind() });
        }
        let mut identity = dimensions(config)?;
        if let (0, Some(text_config @ Json::Object(_))) = (identity.hidden_dim, config.get("text_config")) {
            identity = dimensions(text_config)?;
        }
        identity.model_family = string(config, "model_type")?;
        identity.model_id = string(config, "_name_or_path")?;
        identity.model_hash = model_hash(config);
        Ok(identity)
    }
}

fn dimensions(config: &Json) -> Result<ModelIdentity, ConfigError> {
    let hidden_dim = either(config, "hidden_size", "n_embd")?;
    let heads = either(config, "num_attention_heads", "n_head")?;
    let num_kv_heads = match config.get("num_key_value_heads") {
        Some(value) => number("num_key_value_heads", value)?,
        None => heads,
    };
    let head_dim = match config.get("head_dim") {
        Some(value) if !value.is_falsy() => number("head_dim", value)?,
        _ => hidden_dim.checked_div(heads).unwrap_or(0),
    };
    Ok(ModelIdentity {
        hidden_dim,
        num_layers: either(config, "num_hidden_layers", "n_layer")?,
        num_kv_heads,
        head_dim,
        ..ModelIdentity::default()
    })
}

/// Python's `config.get(first, 0) or config.get(second, 0)`.
fn either(config: &Json, first: &'static str, second: &'static str) -> Result<u32, ConfigError> {
    match config.get(first) {
        Some(value) if !value.is_falsy() => number(first, value),
        _ => config.get(second).map_or(Ok(0), |value| number(second, value)),
    }
}

fn number(field: &'static str, value: &Json) -> Result<u32, ConfigError> {
    match value {
        Json::Null => Ok(0),
        Json::Int(i) => i.to_u32().ok_or_else(|| ConfigError::OutOfRange { field, value: i.to_string() }),
        other => Err(ConfigError::WrongType { field, expected: "a whole number", found: other.kind() }),
    }
}

fn string(config: &Json, field: &'static str) -> Result<String, ConfigError> {
    match config.get(field) {
        None | Some(Json::Null) => Ok(String::new()),
        Some(Json::String(s)) => Ok(s.clone()),
        Some(other) => Err(ConfigError::WrongType { field, expected: "a string", found: other.kind() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> ModelIdentity {
        ModelIdentity::from_config_json(text.as_bytes()).unwrap()
    }

    // spec: handshake 8.2, handshake 8.3
    #[test]
    fn gpt2_names_stand_in_for_missing_ones() {
        let id =
            identity(r#"{"model_type":"gpt2","hidden_size":null,"n_embd":768,"n_layer":12,"n_head":12}"#);
        assert_eq!((id.hidden_dim, id.num_layers, id.num_kv_heads, id.head_dim), (768, 12, 12, 64));
    }

    // spec: handshake 8.4
    #[test]
    fn a_stated_head_dim_wins_over_the_quotient() {
        let text = r#"{"hidden_size":1024,"num_attention_heads":16,"num_key_value_heads":8,"head_dim":128}"#;
        assert_eq!((identity(text).num_kv_heads, identity(text).head_dim), (8, 128));
        let null = r#"{"hidden_size":1024,"num_attention_heads":16,"head_dim":null}"#;
        assert_eq!(identity(null).head_dim, 64);
    }

    // spec: handshake 8.5
    #[test]
    fn multimodal_configs_give_the_dimensions_of_their_text_model() {
        let text = r#"{"model_type":"gemma3","text_config":{"model_type":"gemma3_text","hidden_size":2560,
            "num_hidden_layers":34,"num_attention_heads":8,"num_key_value_heads":4,"head_dim":256}}"#;
        let id = identity(text);
        assert_eq!(id.model_family, "gemma3");
        assert_eq!((id.hidden_dim, id.num_layers, id.num_kv_heads, id.head_dim), (2560, 34, 4, 256));
    }

    // spec: handshake 8.6
    #[test]
    fn impossible_dimensions_are_named() {
        let error = |text: &str| ModelIdentity::from_config_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error(r#"{"hidden_size":"64"}"#).contains("hidden_size is a string"));
        assert!(error(r#"{"num_hidden_layers":-1}"#).contains("num_hidden_layers is -1"));
        assert!(error(r#"{"head_dim":4294967296}"#).contains("head_dim is 4294967296"));
        assert!(error(r#"{"hidden_size":64.5}"#).contains("hidden_size is a float"));
        assert!(error(r#"{"model_type":3}"#).contains("model_type is an integer"));
        assert!(error("[1]").contains("a list where an object"));
        assert!(error("{").contains("not JSON"));
    }
}
