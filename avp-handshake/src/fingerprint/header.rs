//! Headers of safetensors files, read as hostile input.

use std::collections::BTreeMap;
use std::io::Read;

use crate::json::{Json, JsonError, Key, ParseLimits};

/// A longer header is not read; the same bound as in the safetensors library.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

const LIMITS: ParseLimits = ParseLimits { depth: 8, values: 4_000_000, integer_digits: 20 };

/// Why the header of a safetensors file was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// The file ends before its header does.
    #[error("the file has {file_len} bytes, too few for a header of {header_len} bytes")]
    Truncated {
        /// Bytes of the file.
        file_len: u64,
        /// Bytes that the header says it has; 8 where not even its length is there.
        header_len: u64,
    },
    /// The header is longer than it may be.
    #[error("the header says it has {header_len} bytes, at most {limit} are read")]
    TooLarge {
        /// Bytes that the header says it has.
        header_len: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The header is not JSON.
    #[error("the header is not JSON: {0}")]
    Json(#[from] JsonError),
    /// The header is not an object.
    #[error("the header is no JSON object")]
    NotAnObject,
    /// The entry of a tensor lacks a field or has one of a wrong type.
    #[error("tensor {tensor:?}: {field} is missing or has a wrong type")]
    Field {
        /// Name of the tensor.
        tensor: String,
        /// The field.
        field: &'static str,
    },
    /// A tensor does not begin where the one before it ends.
    #[error(
        "tensor {tensor:?} begins at byte {begin} of the data, the one before it ends at byte {expected}"
    )]
    Gap {
        /// Name of the tensor.
        tensor: String,
        /// Where it says it begins.
        begin: u64,
        /// Where it should begin.
        expected: u64,
    },
    /// A tensor ends before it begins.
    #[error("tensor {tensor:?} ends at byte {end}, before it begins at byte {begin}")]
    Backwards {
        /// Name of the tensor.
        tensor: String,
        /// Where it says it begins.
        begin: u64,
        /// Where it says it ends.
        end: u64,
    },
    /// A tensor's shape and type need another number of bytes than it has.
    #[error("tensor {tensor:?} has {actual} bytes, its shape and type need another number")]
    Size {
        /// Name of the tensor.
        tensor: String,
        /// Bytes that it has.
        actual: u64,
    },
    /// The tensors do not fill the file.
    #[error("the tensors end at byte {end} of the data, the data has {data_len} bytes")]
    Uncovered {
        /// Where the last tensor ends.
        end: u64,
        /// Bytes of data in the file.
        data_len: u64,
    },
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) dtype: String,
    pub(super) shape: Vec<u64>,
    /// From the beginning of the file.
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Reads the header from the beginning of a file of `file_len` bytes.
pub(super) fn read(
    file: &mut impl Read,
    file_len: u64,
) -> std::io::Result<Result<BTreeMap<String, Tensor>, HeaderError>> {
    let Some(room) = file_len.checked_sub(8) else {
        return Ok(Err(HeaderError::Truncated { file_len, header_len: 8 }));
    };
    let mut len = [0; 8];
    file.read_exact(&mut len)?;
    let header_len = u64::from_le_bytes(len);
    if header_len > MAX_HEADER_BYTES {
        return Ok(Err(HeaderError::TooLarge { header_len, limit: MAX_HEADER_BYTES }));
    }
    if header_len > room {
        return Ok(Err(HeaderError::Truncated { file_len, header_len }));
    }
    let mut text = Vec::new();
    file.take(header_len).read_to_end(&mut text)?;
    if u64::try_from(text.len()) != Ok(header_len) {
        return Ok(Err(HeaderError::Truncated { file_len, header_len }));
    }
    // Both were checked against the file's length.
    let data_start = 8u64.saturating_add(header_len);
    Ok(tensors(&text, data_start, room.saturating_sub(header_len)))
}

fn tensors(text: &[u8], data_start: u64, data_len: u64) -> Result<BTreeMap<String, Tensor>, HeaderError> {
    let Json::Object(entries) = Json::parse_with(text, LIMITS)? else { return Err(HeaderError::NotAnObject) };
    let mut tensors = Vec::with_capacity(entries.len());
    for (key, entry) in &entries {
        let Key::Str(name) = key else { continue };
        if name != "__metadata__" {
            tensors.push((name, tensor(name, entry)?));
        }
    }
    // Every byte of data belongs to exactly one tensor, as the format demands.
    tensors.sort_by_key(|(_, tensor)| (tensor.offset, tensor.len));
    let mut end = 0u64;
    for (name, tensor) in &tensors {
        if tensor.offset != end {
            return Err(HeaderError::Gap {
                tensor: String::clone(name),
                begin: tensor.offset,
                expected: end,
            });
        }
        end = end.saturating_add(tensor.len);
    }
    if end != data_len {
        return Err(HeaderError::Uncovered { end, data_len });
    }
    let absolute = |(name, tensor): (&String, Tensor)| {
        (name.clone(), Tensor { offset: tensor.offset.saturating_add(data_start), ..tensor })
    };
    Ok(tensors.into_iter().map(absolute).collect())
}

/// The entry of one tensor; its offset is within the data.
fn tensor(name: &str, entry: &Json) -> Result<Tensor, HeaderError> {
    let field = |field| HeaderError::Field { tensor: name.to_owned(), field };
    let Some(Json::String(dtype)) = entry.get("dtype") else { return Err(field("dtype")) };
    let shape = numbers(entry.get("shape")).ok_or_else(|| field("shape"))?;
    let offsets = numbers(entry.get("data_offsets")).ok_or_else(|| field("data_offsets"))?;
    let [begin, end] = offsets[..] else { return Err(field("data_offsets")) };
    let Some(len) = end.checked_sub(begin) else {
        return Err(HeaderError::Backwards { tensor: name.to_owned(), begin, end });
    };
    if let Some(size) = element_size(dtype) {
        let expected = shape.iter().try_fold(size, |product, &dim| product.checked_mul(dim));
        if expected != Some(len) {
            return Err(HeaderError::Size { tensor: name.to_owned(), actual: len });
        }
    }
    Ok(Tensor { dtype: dtype.clone(), shape, offset: begin, len })
}

fn numbers(value: Option<&Json>) -> Option<Vec<u64>> {
    let Some(Json::Array(items)) = value else { return None };
    let number = |item: &Json| match item {
        Json::Int(i) => i.to_u64(),
        _ => None,
    };
    items.iter().map(number).collect()
}

/// Bytes of one element; `None` for types of less than a byte and for types that are not known here.
fn element_size(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
        "U16" | "I16" | "F16" | "BF16" => Some(2),
        "U32" | "I32" | "F32" => Some(4),
        "U64" | "I64" | "F64" | "C64" => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = u64::try_from(header.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, HeaderError> {
        read(&mut &bytes[..], u64::try_from(bytes.len()).unwrap()).unwrap()
    }

    #[test]
    fn tensors_are_found_at_their_place_in_the_file() {
        let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[2,10]},
            "a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}"#;
        let tensors = parse(&file(header, 10)).unwrap();
        let start = 8 + u64::try_from(header.len()).unwrap();
        let names: Vec<_> = tensors.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(
            tensors["b"],
            Tensor { dtype: "F32".into(), shape: vec![2, 1], offset: start + 2, len: 8 }
        );
    }

    #[test]
    fn headers_that_lie_are_errors() {
        let t = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"t":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let error = |header: &str, data| parse(&file(header, data)).unwrap_err();
        assert!(matches!(
            error(&t("\"F32\"", "[1]", "[0,4]"), 5),
            HeaderError::Uncovered { end: 4, data_len: 5 }
        ));
        assert!(matches!(error(&t("\"F32\"", "[1]", "[0,4]"), 3), HeaderError::Uncovered { .. }));
        assert!(matches!(
            error(&t("\"F32\"", "[1]", "[1,5]"), 5),
            HeaderError::Gap { begin: 1, expected: 0, .. }
        ));
        assert!(matches!(error(&t("\"F32\"", "[1]", "[4,0]"), 4), HeaderError::Backwards { .. }));
        assert!(matches!(error(&t("\"F32\"", "[2]", "[0,4]"), 4), HeaderError::Size { actual: 4, .. }));
        let huge = "[4294967296,4294967296,4294967296]";
        assert!(matches!(error(&t("\"F32\"", huge, "[0,4]"), 4), HeaderError::Size { .. }));
        let end = "[0,18446744073709551615]";
        assert!(matches!(error(&t("\"X\"", "[1]", end), 4), HeaderError::Uncovered { .. }));
        assert!(matches!(error(&t("1", "[1]", "[0,4]"), 4), HeaderError::Field { field: "dtype", .. }));
        assert!(matches!(
            error(&t("\"F32\"", "[-1]", "[0,4]"), 4),
            HeaderError::Field { field: "shape", .. }
        ));
        assert!(matches!(
            error(&t("\"F32\"", "[1]", "[0]"), 4),
            HeaderError::Field { field: "data_offsets", .. }
        ));
        assert_eq!(error("[]", 0), HeaderError::NotAnObject);
        assert!(matches!(error("{", 0), HeaderError::Json(_)));
        let overlap = r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}"#;
        assert!(matches!(error(overlap, 4), HeaderError::Gap { .. }));
    }

    #[test]
    fn lengths_are_checked_before_anything_is_read() {
        assert_eq!(parse(b"1234567"), Err(HeaderError::Truncated { file_len: 7, header_len: 8 }));
        let mut bytes = file("{}", 0);
        bytes[0] = 3;
        assert_eq!(parse(&bytes), Err(HeaderError::Truncated { file_len: 10, header_len: 3 }));
        bytes[7] = 1;
        assert!(matches!(parse(&bytes), Err(HeaderError::TooLarge { limit: MAX_HEADER_BYTES, .. })));
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(header in "[\\[\\]{}:,\"a-c0-9_]{0,80}", data in 0usize..16, cut in 0usize..100) {
            let bytes = file(&header, data);
            let _ = parse(&bytes[..cut.min(bytes.len())]);
            let _ = parse(&bytes);
        }
    }
}
