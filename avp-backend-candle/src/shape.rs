//! Shapes of well-known models: how fast an engine is can be measured without their weights.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

/// The shape of a well-known model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shape {
    /// Qwen2.5-0.5B: 24 layers, hidden 896, 2 KV heads of 64, tied.
    Qwen25HalfB,
    /// Qwen2.5-7B: 28 layers, hidden 3,584, 4 KV heads of 128.
    Qwen25SevenB,
    /// Llama-3.1-8B: 32 layers, hidden 4,096, 8 KV heads of 128.
    Llama31EightB,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Qwen25HalfB, Self::Qwen25SevenB, Self::Llama31EightB];

    /// Its name, which [`FromStr`] reads.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen25HalfB => "qwen2.5-0.5b",
            Self::Qwen25SevenB => "qwen2.5-7b",
            Self::Llama31EightB => "llama-3.1-8b",
        }
    }

    /// Positions of its context window.
    #[must_use]
    pub fn max_positions(self) -> usize {
        match self {
            Self::Qwen25HalfB | Self::Qwen25SevenB => 32_768,
            Self::Llama31EightB => 131_072,
        }
    }

    /// Its `config.json`, as published.
    pub(crate) fn config(self) -> Value {
        match self {
            Self::Qwen25HalfB => qwen(self, [896, 4864, 24, 14, 2], 151_936, true),
            Self::Qwen25SevenB => qwen(self, [3584, 18_944, 28, 28, 4], 152_064, false),
            Self::Llama31EightB => json!({
                "model_type": "llama",
                "hidden_size": 4096,
                "intermediate_size": 14_336,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "vocab_size": 128_256,
                "max_position_embeddings": self.max_positions(),
                "rms_norm_eps": 1e-5,
                "rope_theta": 500_000.0,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
                "hidden_act": "silu",
                "tie_word_embeddings": false,
            }),
        }
    }
}

fn qwen(
    shape: Shape,
    [hidden, intermediate, layers, heads, kv_heads]: [usize; 5],
    vocab: usize,
    tied: bool,
) -> Value {
    json!({
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": shape.max_positions(),
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
    })
}

/// A tokenizer that knows one word.
pub(crate) const TOKENIZER: &str = include_str!("one_word_tokenizer.json");

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No [`Shape`] has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownShape(pub String);

impl fmt::Display for UnknownShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no shape is called {:?}; there are {}", self.0, Shape::ALL.map(Shape::name).join(", "))
    }
}

impl std::error::Error for UnknownShape {}

impl FromStr for Shape {
    type Err = UnknownShape;

    fn from_str(name: &str) -> Result<Self, UnknownShape> {
        let found = Self::ALL.into_iter().find(|shape| shape.name() == name);
        found.ok_or_else(|| UnknownShape(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::DecoderConfig;
    use crate::config::json::parse_object;

    #[test]
    fn every_shape_is_found_by_its_name_and_has_a_config_that_the_engine_takes() {
        for shape in Shape::ALL {
            assert_eq!(shape.to_string().parse(), Ok(shape));
            let path = Path::new(shape.name());
            let object = parse_object(path, shape.config().to_string().as_bytes()).unwrap();
            let config = DecoderConfig::parse(path, &object).unwrap();
            assert_eq!(config.tied, shape == Shape::Qwen25HalfB);
            assert_eq!(config.max_positions, shape.max_positions());
        }
        let error = "gpt-2".parse::<Shape>().unwrap_err().to_string();
        assert!(error.contains("gpt-2") && error.contains("qwen2.5-7b"), "{error}");
    }
}
