//! The protobuf message `avp.TransmitResponse` (docs/spec/http.md, section 3).

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use prost::encoding::string;

use crate::error::DecodeError;
use crate::limits::Limits;
use crate::metadata::{extra_len, put_extra, read_entry, text};
use crate::proto::{Field, Reader, Value};

/// A receiver's answer to a transmitted frame. Field numbers in parentheses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct TransmitResponse {
    /// Whether the frame was taken (1).
    pub success: bool,
    /// What went wrong, or a remark (2).
    pub message: Option<String>,
    /// The receiver's name for the request (3).
    pub request_id: Option<String>,
    /// Extensions (4).
    pub extra: BTreeMap<String, String>,
}

impl TransmitResponse {
    /// The protobuf message.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        if self.success {
            prost::encoding::bool::encode(1, &self.success, &mut out);
        }
        if let Some(message) = &self.message {
            string::encode(2, message, &mut out);
        }
        if let Some(request_id) = &self.request_id {
            string::encode(3, request_id, &mut out);
        }
        put_extra(4, &self.extra, &mut out);
        out
    }

    /// Reads the protobuf message that fills `bytes`, under the same limits as metadata.
    ///
    /// # Errors
    /// As [`Metadata::decode`](crate::Metadata::decode).
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, DecodeError> {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if len > limits.max_metadata_len {
            return Err(DecodeError::MetadataTooLarge { len, max: limits.max_metadata_len });
        }
        let mut response = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some(Field { number, value }) = reader.next_field()? {
            match (number, value) {
                (1, Value::Varint(n)) => response.success = n != 0,
                (2, Value::Bytes(s)) => response.message = Some(text(number, s)?),
                (3, Value::Bytes(s)) => response.request_id = Some(text(number, s)?),
                (4, Value::Bytes(entry)) => {
                    read_entry(reader.nested(entry), number, &mut response.extra, limits)?;
                }
                _ => {}
            }
        }
        Ok(response)
    }

    fn encoded_len(&self) -> usize {
        let option_len =
            |tag, s: &Option<String>| s.as_ref().map_or(0, |s: &String| string::encoded_len(tag, s));
        let success = if self.success { 2 } else { 0 };
        success + option_len(2, &self.message) + option_len(3, &self.request_id) + extra_len(&self.extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: http 3.2
    #[test]
    fn a_response_survives_the_wire() {
        let response = TransmitResponse {
            success: true,
            message: Some(String::new()),
            request_id: Some("r".into()),
            extra: BTreeMap::from([(String::new(), "v".into())]),
        };
        let bytes = response.to_vec();
        assert_eq!(bytes, [0x08, 1, 0x12, 0, 0x1a, 1, b'r', 0x22, 5, 0x0a, 0, 0x12, 1, b'v']);
        assert_eq!(TransmitResponse::decode(&bytes, &Limits::default()), Ok(response));
    }
}
