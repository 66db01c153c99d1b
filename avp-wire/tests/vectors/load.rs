//! Reading the vectors: cases by file, bytes given as hex or by their seed, metadata both ways.

use std::collections::BTreeMap;
use std::path::PathBuf;

use avp_wire::{DType, Frame, Metadata, Mode, PayloadType};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Suite<T> {
    cases: Vec<T>,
}

/// The cases of `spec-vectors/<file>`.
pub(crate) fn cases<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "spec-vectors", file].iter().collect();
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let suite: Suite<T> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(!suite.cases.is_empty(), "{file} has no cases");
    suite.cases
}

/// Bytes of a case: all of them, or what is needed to make or recognise them.
#[derive(Deserialize)]
pub(crate) struct Blob {
    hex: Option<String>,
    splitmix64_seed: Option<u64>,
    len: Option<usize>,
    sha256: Option<String>,
}

impl Blob {
    /// The bytes, where the case gives or generates them; checked against the hash where there is one.
    pub(crate) fn bytes(&self) -> Option<Bytes> {
        let bytes: Bytes = match (&self.hex, self.splitmix64_seed, self.len) {
            (Some(hex), _, _) => hex::decode(hex).unwrap().into(),
            (None, Some(seed), Some(len)) => splitmix64(seed).take(len).collect::<Vec<_>>().into(),
            _ => return None,
        };
        if self.sha256.is_some() {
            assert!(self.is(&bytes), "the case contradicts itself");
        }
        Some(bytes)
    }

    /// Whether `bytes` are those of the case, by length and hash.
    pub(crate) fn is(&self, bytes: &[u8]) -> bool {
        self.len == Some(bytes.len()) && self.sha256.as_deref() == Some(&sha256(bytes))
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The generator that cases name: splitmix64 as a stream of little-endian bytes.
pub(crate) fn splitmix64(seed: u64) -> impl Iterator<Item = u8> {
    (1_u64..).flat_map(move |i| {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(i));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    })
}

/// `f32s(seed)` of the vectors: 24 bits of each word, in [-1, 1).
pub(crate) fn f32s(seed: u64, len: usize) -> Vec<f32> {
    let bytes: Vec<u8> = splitmix64(seed).take(len * 4).collect();
    let words = bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word));
    words.map(|word| (word >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Metadata as the reference peer's API shows it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct JsonMetadata {
    session_id: String,
    source_agent_id: String,
    target_agent_id: String,
    model_id: String,
    hidden_dim: u32,
    num_layers: u32,
    payload_type: i32,
    dtype: i32,
    tensor_shape: Vec<u32>,
    mode: i32,
    avp_map_id: String,
    extra: BTreeMap<String, String>,
}

impl JsonMetadata {
    pub(crate) fn to_metadata(&self) -> Metadata {
        Metadata {
            session_id: self.session_id.clone(),
            source_agent_id: self.source_agent_id.clone(),
            target_agent_id: self.target_agent_id.clone(),
            model_id: self.model_id.clone(),
            hidden_dim: self.hidden_dim,
            num_layers: self.num_layers,
            payload_type: PayloadType::from_number(self.payload_type).unwrap(),
            dtype: DType::from_number(self.dtype).unwrap(),
            tensor_shape: self.tensor_shape.clone(),
            mode: Mode::from_number(self.mode).unwrap(),
            avp_map_id: self.avp_map_id.clone(),
            extra: self.extra.clone(),
            ..Metadata::default()
        }
    }
}

/// What the reference peer decodes a message to.
#[derive(Deserialize)]
pub(crate) struct Decoded {
    pub(crate) flags: u8,
    pub(crate) payload_length: u32,
    pub(crate) metadata_length: u32,
    pub(crate) metadata: JsonMetadata,
    pub(crate) pb_compression: Option<String>,
    pub(crate) payload_checksum: Option<u32>,
    pub payload_sha256: String,
    pub(crate) payload_len: usize,
}

impl Decoded {
    /// Asserts that `frame` says what the reference peer read.
    pub(crate) fn assert_frame(&self, frame: &Frame, name: &str) {
        let expected = Metadata {
            compression: self.pb_compression.clone(),
            payload_checksum: self.payload_checksum,
            ..self.metadata.to_metadata()
        };
        assert_eq!(frame.metadata, expected, "{name}");
        assert_eq!(frame.payload.len(), self.payload_len, "{name}");
        assert_eq!(sha256(&frame.payload), self.payload_sha256, "{name}");
    }
}
