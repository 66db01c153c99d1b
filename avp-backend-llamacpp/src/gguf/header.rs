//! The file's head: magic, counts, metadata, tensor infos.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::BufRead;

use super::error::GgufFault;
use super::source::Source;
use super::tensor::{self, TensorInfo};
use super::value::Value;
use crate::shown::shown;

/// What a file says before its tensor data.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) version: u32,
    pub(super) alignment: u64,
    pub(super) values: HashMap<String, Value>,
    pub(super) tensors: Vec<TensorInfo>,
}

impl Head {
    /// Reads and checks the head of a file of `len` bytes.
    pub(super) fn read<R: BufRead>(inner: R, len: u64) -> Result<Self, GgufFault> {
        let source = &mut Source::new(inner, len);
        let version = read_version(source)?;
        let tensors = source.u64("the header")?;
        let keys = source.u64("the header")?;
        limited("tensors", tensors, MAX_TENSORS)?;
        limited("metadata keys", keys, MAX_KEYS)?;
        let values = read_values(source, keys)?;
        let alignment = alignment(&values)?;
        let tensors = tensor::read_all(source, tensors, alignment)?;
        let end = tensors.iter().map(|tensor| tensor.offset.saturating_add(tensor.len)).max();
        let trailing = len.saturating_sub(end.unwrap_or(len));
        if trailing > MOST_TRAILING {
            return Err(GgufFault::Trailing { trailing });
        }
        Ok(Self { version, alignment, values, tensors })
    }
}

fn read_version<R: BufRead>(source: &mut Source<R>) -> Result<u32, GgufFault> {
    let magic: [u8; 4] = source.array("the magic bytes 'GGUF'")?;
    if &magic == b"FUGG" {
        return Err(GgufFault::BigEndian);
    }
    if &magic != b"GGUF" {
        return Err(GgufFault::NotGguf { start: format!("'{}'", magic.escape_ascii()) });
    }
    match source.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        // The version of a file for machines of the other byte order.
        version if matches!(version.swap_bytes(), 1..=0xffff) => Err(GgufFault::BigEndian),
        version => Err(GgufFault::Version { version }),
    }
}

fn limited(what: &'static str, count: u64, limit: u64) -> Result<(), GgufFault> {
    if count > limit { Err(GgufFault::TooMany { what, count, limit }) } else { Ok(()) }
}

fn read_values<R: BufRead>(source: &mut Source<R>, count: u64) -> Result<HashMap<String, Value>, GgufFault> {
    source.expect("the metadata", count, SHORTEST_PAIR)?;
    let mut values = HashMap::new();
    for _ in 0..count {
        let key = source.string("a metadata key", LONGEST_KEY)?;
        if key.is_empty() {
            return Err(GgufFault::EmptyKey);
        }
        let value = Value::read(source, &key)?;
        match values.entry(key) {
            Entry::Vacant(entry) => entry.insert(value),
            Entry::Occupied(entry) => return Err(GgufFault::DuplicateKey { key: shown(entry.key()) }),
        };
    }
    Ok(values)
}

fn alignment(values: &HashMap<String, Value>) -> Result<u64, GgufFault> {
    match values.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() => Ok(u64::from(alignment)),
        Some(&Value::U32(alignment)) => Err(GgufFault::Alignment { alignment }),
        Some(other) => {
            Err(GgufFault::WrongType { key: ALIGNMENT.to_owned(), got: other.description(), expected: "u32" })
        }
    }
}

const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Bytes that may follow the last tensor. llama.cpp asks for all of a file.
const MOST_TRAILING: u64 = 1 << 20;
const MAX_TENSORS: u64 = 65_536;
const MAX_KEYS: u64 = 65_536;
const LONGEST_KEY: u64 = 65_535;
/// Bytes of the shortest key and value: a key of one byte, a value of one byte.
const SHORTEST_PAIR: u64 = 8 + 1 + 4 + 1;
