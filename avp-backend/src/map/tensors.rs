//! The tensors of a safetensors file, taken one by one and judged.

use safetensors::tensor::{Dtype, SafeTensors};

use super::MapFault;

/// Most bytes of a header.
const MOST_HEADER: u64 = 64 << 10;
/// Most bytes of a file: a linear map of a width of 16,384 to another one is 1 GiB.
pub(super) const MOST_FILE: u64 = 2 << 30;

pub(super) struct Tensors<'a>(SafeTensors<'a>);

impl<'a> Tensors<'a> {
    /// Those of a file, with the text fields of its header.
    pub(super) fn read(bytes: &'a [u8]) -> Result<(Self, Fields), MapFault> {
        let len = bytes.len() as u64;
        if len > MOST_FILE {
            return Err(MapFault::TooLarge { what: "a file", len, most: MOST_FILE });
        }
        // Judged here first: the library takes headers of 100 MB.
        let header = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        if let Some(len) = header.filter(|len| *len > MOST_HEADER) {
            return Err(MapFault::TooLarge { what: "a header", len, most: MOST_HEADER });
        }
        let broken = |error: safetensors::SafeTensorError| MapFault::Safetensors(error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let fields = metadata.metadata().clone().unwrap_or_default();
        Ok((Self(SafeTensors::deserialize(bytes).map_err(broken)?), fields))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.names().contains(&name)
    }

    /// Refuses tensors of other names.
    pub(super) fn only(&self, names: &[&str]) -> Result<(), MapFault> {
        let other = self.0.names().into_iter().filter(|name| !names.contains(name)).min();
        other.map_or(Ok(()), |name| Err(MapFault::UnknownTensor(name.to_owned())))
    }

    /// Finite numbers.
    pub(super) fn f32s(&self, name: &'static str, shape: &[usize]) -> Result<Vec<f32>, MapFault> {
        let values: Vec<f32> = self.words(name, Dtype::F32, shape)?.map(f32::from_le_bytes).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(MapFault::NonFinite(name));
        }
        Ok(values)
    }

    pub(super) fn u32s(&self, name: &'static str, shape: &[usize]) -> Result<Vec<u32>, MapFault> {
        Ok(self.words(name, Dtype::U32, shape)?.map(u32::from_le_bytes).collect())
    }

    fn words(
        &self,
        name: &'static str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<impl Iterator<Item = [u8; 4]> + 'a, MapFault> {
        let tensor = self.0.tensor(name).map_err(|_| MapFault::Missing(name.to_owned()))?;
        if tensor.dtype() != dtype {
            let (expected, got) = (dtype.to_string(), tensor.dtype().to_string());
            return Err(MapFault::Dtype { tensor: name, expected, got });
        }
        if tensor.shape() != shape {
            let (expected, got) = (shape.to_vec(), tensor.shape().to_vec());
            return Err(MapFault::Shape { tensor: name, expected, got });
        }
        let (words, _) = tensor.data().as_chunks();
        Ok(words.iter().copied())
    }
}

/// Text fields of a header.
pub(super) type Fields = std::collections::HashMap<String, String>;
