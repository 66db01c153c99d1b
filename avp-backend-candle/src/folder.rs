//! The text files of a Hugging Face model folder beside the weights.

#![cfg_attr(not(test), deny(clippy::as_conversions))]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use avp_backend::BackendError;
use serde_json::{Map, Value};

use crate::codec::HfCodec;
use crate::config::json::{Object, invalid, read_file, read_object};

/// Turn-ending tokens of common chat formats. Many configs name only the end of text in `eos_token_id`.
const TURN_ENDS: [&str; 3] = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>"];
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

/// Path of a file that must be there.
pub(crate) fn required(folder: &Path, name: &str) -> Result<PathBuf, BackendError> {
    let path = folder.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(BackendError::ModelFileMissing { path: folder.to_path_buf(), what: name.to_owned() })
    }
}

/// What a chat needs to know about a model.
#[derive(Debug, Default)]
pub(crate) struct ChatFiles {
    pub(crate) chat_template: Option<String>,
    pub(crate) special_tokens: HashMap<String, String>,
    pub(crate) stop_tokens: Vec<u32>,
}

impl ChatFiles {
    /// Reads `tokenizer_config.json`, `chat_template.jinja` and `generation_config.json`, each if it is there.
    /// `eos` is `eos_token_id` of `config.json`.
    pub(crate) fn load(folder: &Path, codec: &HfCodec, eos: &[u32]) -> Result<Self, BackendError> {
        let (tokenizer_path, tokenizer) = optional(folder, "tokenizer_config.json")?;
        let (generation_path, generation) = optional(folder, "generation_config.json")?;
        let tokenizer = Object::new(&tokenizer_path, &tokenizer);
        let special_tokens = special_tokens(&tokenizer)?;

        let mut stop_tokens = eos.to_vec();
        stop_tokens.extend(Object::new(&generation_path, &generation).ids("eos_token_id")?);
        stop_tokens.extend(special_tokens.get("eos_token").and_then(|token| codec.token(token)));
        stop_tokens.extend(TURN_ENDS.iter().filter_map(|token| codec.added_token(token)));
        stop_tokens.sort_unstable();
        stop_tokens.dedup();
        Ok(Self { chat_template: chat_template(folder, &tokenizer)?, special_tokens, stop_tokens })
    }
}

fn optional(folder: &Path, name: &str) -> Result<(PathBuf, Map<String, Value>), BackendError> {
    let path = folder.join(name);
    let map = if path.is_file() { read_object(&path)? } else { Map::new() };
    Ok((path, map))
}

/// Tokens given as a string or as `{"content": ..}`.
fn special_tokens(config: &Object<'_>) -> Result<HashMap<String, String>, BackendError> {
    let mut tokens = HashMap::new();
    for key in SPECIAL_TOKENS {
        let token = match config.value(key) {
            Some(Value::Object(_)) => match config.object(key)? {
                Some(object) => object.str("content")?,
                None => None,
            },
            _ => config.str(key)?,
        };
        if let Some(token) = token {
            tokens.insert(key.to_owned(), token.to_owned());
        }
    }
    Ok(tokens)
}

/// The template in `chat_template.jinja`, else in `tokenizer_config.json`: one, or the `default` of a list.
fn chat_template(folder: &Path, config: &Object<'_>) -> Result<Option<String>, BackendError> {
    let path = folder.join("chat_template.jinja");
    if path.is_file() {
        let text = String::from_utf8(read_file(&path)?);
        return text.map(Some).map_err(|e| invalid(&path, format!("is not UTF-8: {e}")));
    }
    let key = "chat_template";
    let Some(Value::Array(templates)) = config.value(key) else {
        return Ok(config.str(key)?.map(str::to_owned));
    };
    let field =
        |template: &Value, field: &str| template.get(field).and_then(Value::as_str).map(str::to_owned);
    let default = templates.iter().find(|t| field(t, "name").as_deref() == Some("default"));
    match default.or(templates.first()).and_then(|t| field(t, "template")) {
        Some(template) => Ok(Some(template)),
        None => Err(config.error(key, "is a list without a template in it")),
    }
}
