//! Numbers that a model has once, or once for each layer.

use super::error::{GgufError, GgufFault};
use super::file::GgufFile;
use super::value::Value;

/// The number of a key, the same for all `layers`; `None` where the key is missing.
pub(super) fn uniform(file: &GgufFile, key: &str, layers: u32, what: &str) -> Result<Option<u32>, GgufError> {
    let Some(mut numbers) = per_layer(file, key, layers)? else { return Ok(None) };
    numbers.dedup();
    match numbers.as_slice() {
        [same] => Ok(Some(*same)),
        _ => Err(file.error(GgufFault::UnequalLayers { what: what.to_owned() })),
    }
}

/// The greatest number of a key over all `layers`; `None` where the key is missing.
pub(super) fn greatest(file: &GgufFile, key: &str, layers: u32) -> Result<Option<u32>, GgufError> {
    Ok(per_layer(file, key, layers)?.and_then(|numbers| numbers.into_iter().max()))
}

/// One number, or `layers` of them.
fn per_layer(file: &GgufFile, key: &str, layers: u32) -> Result<Option<Vec<u32>>, GgufError> {
    match file.value(key) {
        Some(Value::Array(_)) => {}
        _ => return Ok(file.find_u32(key)?.map(|number| vec![number])),
    }
    let numbers = file.find_u32_array(key)?.unwrap_or_default();
    if u32::try_from(numbers.len()) != Ok(layers) {
        let got = format!("an array of {}", numbers.len());
        return Err(file.bad_value(key, got, format!("a number for each of the {layers} layers")));
    }
    Ok(Some(numbers))
}
