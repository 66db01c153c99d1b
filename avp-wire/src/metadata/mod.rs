//! The protobuf message `avp.Metadata` (docs/spec/frame.md, sections 3 and 7).

mod decode;
mod encode;
mod types;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

pub(crate) use decode::{read_entry, text};
pub(crate) use encode::{extra_len, put_extra};
pub use types::{DType, Mode, PayloadType};

/// What a frame says about its payload. Field numbers in parentheses.
///
/// ```
/// use avp_wire::{DType, Limits, Metadata};
///
/// let metadata = Metadata { model_id: "m".into(), dtype: DType::BFloat16, ..Metadata::default() };
/// let bytes = metadata.to_vec();
/// assert_eq!(Metadata::decode(&bytes, &Limits::default()).unwrap(), metadata);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct Metadata {
    /// Session that the frame belongs to (1).
    pub session_id: String,
    /// Agent that made the frame (2).
    pub source_agent_id: String,
    /// Agent that the frame is for (3).
    pub target_agent_id: String,
    /// Name of the model that computed the payload (4).
    pub model_id: String,
    /// Width of that model's hidden state (5).
    pub hidden_dim: u32,
    /// Layers of that model (6).
    pub num_layers: u32,
    /// What the payload holds (7).
    pub payload_type: PayloadType,
    /// Element type of the payload (8).
    pub dtype: DType,
    /// Shape of the payload's tensor, outermost first; empty where the payload says it itself (9).
    pub tensor_shape: Vec<u32>,
    /// How the agents communicate (10).
    pub mode: Mode,
    /// Name of the compression, `zstd` (11). [`Frame::encode`](crate::Frame::encode) sets it by its options.
    pub compression: Option<String>,
    /// The map between the models, empty for one model (13).
    pub avp_map_id: String,
    /// Extensions (14): see [`ext`](crate::ext).
    pub extra: BTreeMap<String, String>,
    /// CRC-32 (IEEE) of the payload before compression (15). [`Frame::encode`](crate::Frame::encode) sets it
    /// by its options.
    pub payload_checksum: Option<u32>,
}

impl Metadata {
    /// Bytes of payload that shape and dtype describe, for a tensor of hidden states.
    ///
    /// `None` where they do not say: an empty shape, a KV cache (its own header says), JSON mode, and frames
    /// of a kind or codec whose shape means something else (docs/spec/frame.md, section 5).
    ///
    /// # Errors
    /// `ShapeOverflow`.
    pub fn tensor_len(&self) -> Result<Option<u64>, crate::DecodeError> {
        let describes_bytes = self.payload_type == PayloadType::HiddenState
            && self.mode == Mode::Latent
            && !self.tensor_shape.is_empty()
            && !self.extra.contains_key(crate::ext::KIND)
            && !self.extra.contains_key(crate::ext::CODEC);
        if !describes_bytes {
            return Ok(None);
        }
        if self.tensor_shape.contains(&0) {
            return Ok(Some(0));
        }
        let size = u64::try_from(self.dtype.size()).unwrap_or(u64::MAX);
        let mut dims = self.tensor_shape.iter().map(|&dim| u64::from(dim));
        dims.try_fold(size, |product, dim| product.checked_mul(dim))
            .map(Some)
            .ok_or(crate::DecodeError::ShapeOverflow)
    }
}
