//! A map as bytes and back: safetensors, with what it is in the header (docs/spec/projection.md, section 9).

use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::tensors::{Fields, Tensors};
use super::{MapEnd, MapFault, MapProjection, ProjectionMap};
use crate::{LinearMap, SharedTokens, Validation};

/// The version of the format.
const VERSION: &str = "1";

impl ProjectionMap {
    /// The map as a file. Equal maps give equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (mut header, mut data) = (Map::new(), Vec::new());
        header.insert("__metadata__".to_owned(), Value::Object(self.fields()));
        let mut put = |name: &str, dtype: &str, shape: &[usize], words: &mut dyn Iterator<Item = [u8; 4]>| {
            let start = data.len();
            words.for_each(|word| data.extend_from_slice(&word));
            let tensor = json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] });
            header.insert(name.to_owned(), tensor);
        };
        match &self.projection {
            MapProjection::Vocabulary(SharedTokens::Same(_)) => {}
            MapProjection::Vocabulary(SharedTokens::Pairs(pairs)) => {
                let shape = [pairs.len()];
                put("source_ids", "U32", &shape, &mut pairs.iter().map(|pair| pair.0.to_le_bytes()));
                put("target_ids", "U32", &shape, &mut pairs.iter().map(|pair| pair.1.to_le_bytes()));
            }
            MapProjection::Linear(map) => {
                let shape = [self.source.hidden_dim as usize, self.target.hidden_dim as usize];
                put("matrix", "F32", &shape, &mut map.matrix().iter().map(|x| x.to_le_bytes()));
                if let Some(bias) = map.bias() {
                    put("bias", "F32", &[bias.len()], &mut bias.iter().map(|x| x.to_le_bytes()));
                }
            }
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // The data starts at a multiple of 8.
        header.resize(header.len().next_multiple_of(8), b' ');
        [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
    }

    fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: String, value: String| drop(fields.insert(name, value.into()));
        put("avp.map".to_owned(), VERSION.to_owned());
        put("method".to_owned(), self.projection.method().to_owned());
        for (name, end) in [("source", &self.source), ("target", &self.target)] {
            put(format!("{name}.model_id"), end.model_id.clone());
            put(format!("{name}.model_hash"), end.model_hash.clone());
            if let Some(weights) = &end.weights {
                put(format!("{name}.weights"), weights.clone());
            }
            put(format!("{name}.tokenizer_hash"), end.tokenizer_hash.clone());
            put(format!("{name}.hidden_dim"), end.hidden_dim.to_string());
            put(format!("{name}.rows"), end.rows.to_string());
        }
        let shared = self.projection.shared_tokens().map(|count| count.to_string());
        let norm = self.target_norm.map(|norm| norm.to_string());
        let cosine = self.validation.map(|found| found.cosine.to_string());
        let perplexity = self.validation.and_then(|found| found.perplexity).map(|value| value.to_string());
        let optional = [
            ("shared_tokens", shared),
            ("target_norm", norm),
            ("validation.cosine", cosine),
            ("validation.perplexity", perplexity),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                put(name.to_owned(), value);
            }
        }
        fields
    }

    /// Reads a map from the bytes of a file, all of which are judged.
    ///
    /// # Errors
    /// [`MapFault`] with the first that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, MapFault> {
        let (tensors, fields) = Tensors::read(bytes)?;
        match fields.get("avp.map").map(String::as_str) {
            Some(VERSION) => {}
            Some(other) => return Err(MapFault::Version(other.to_owned())),
            None => return Err(MapFault::NoMap),
        }
        let (source, target) = (end(&fields, "source")?, end(&fields, "target")?);
        let target_norm = float(&fields, "target_norm")?;
        let projection = match text(&fields, "method")? {
            "vocab_mediated" => {
                tensors.only(&[])?;
                MapProjection::Vocabulary(SharedTokens::Same(count(&fields)?))
            }
            "vocab_overlap" => {
                tensors.only(&["source_ids", "target_ids"])?;
                let shape = [count(&fields)?];
                let ids = tensors.u32s("source_ids", &shape)?.into_iter();
                let pairs = ids.zip(tensors.u32s("target_ids", &shape)?).collect();
                MapProjection::Vocabulary(SharedTokens::Pairs(pairs))
            }
            "linear" => {
                tensors.only(&["matrix", "bias"])?;
                let norm = target_norm.ok_or_else(|| MapFault::Missing("target_norm".to_owned()))?;
                let map = LinearMap::of(&tensors, source.hidden_dim, target.hidden_dim, norm)?;
                MapProjection::Linear(map)
            }
            other => return Err(MapFault::Method(other.to_owned())),
        };
        let map = Self { source, target, projection, target_norm, validation: validation(&fields)? };
        map.judge()?;
        Ok(map)
    }
}

fn end(fields: &Fields, name: &str) -> Result<MapEnd, MapFault> {
    let field = |of: &str| text(fields, &format!("{name}.{of}")).map(str::to_owned);
    let number = |of: &str| integer::<u32>(fields, &format!("{name}.{of}"));
    Ok(MapEnd {
        model_id: field("model_id")?,
        model_hash: field("model_hash")?,
        weights: fields.get(&format!("{name}.weights")).cloned(),
        tokenizer_hash: field("tokenizer_hash")?,
        hidden_dim: number("hidden_dim")?,
        rows: number("rows")?,
    })
}

fn validation(fields: &Fields) -> Result<Option<Validation>, MapFault> {
    let perplexity = float(fields, "validation.perplexity")?;
    match float(fields, "validation.cosine")? {
        Some(cosine) => Ok(Some(Validation { cosine, perplexity })),
        None if perplexity.is_some() => Err(MapFault::Missing("validation.cosine".to_owned())),
        None => Ok(None),
    }
}

fn count(fields: &Fields) -> Result<usize, MapFault> {
    integer(fields, "shared_tokens")
}

fn text<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, MapFault> {
    fields.get(name).map(String::as_str).ok_or_else(|| MapFault::Missing(name.to_owned()))
}

/// A number as it is written here: digits, without a sign or leading zeros.
fn integer<T: FromStr + ToString>(fields: &Fields, name: &str) -> Result<T, MapFault> {
    let text = text(fields, name)?;
    let number = text.parse().ok().filter(|number: &T| number.to_string() == text);
    number.ok_or_else(|| MapFault::Field { field: name.to_owned(), problem: "no number that fits" })
}

fn float(fields: &Fields, name: &str) -> Result<Option<f32>, MapFault> {
    let Some(text) = fields.get(name) else { return Ok(None) };
    let number = text.parse().ok().filter(|number: &f32| number.is_finite());
    let fault = || MapFault::Field { field: name.to_owned(), problem: "no finite number" };
    number.map(Some).ok_or_else(fault)
}
