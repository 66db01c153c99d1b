//! Writing metadata (docs/spec/frame.md, section 7): fields ascending, proto3 defaults left out, `extra` sorted by key.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use bytes::BufMut;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, int32, string, uint32};

use super::Metadata;

impl Metadata {
    /// Bytes that [`encode`](Self::encode) writes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let strings = [
            (1, &self.session_id),
            (2, &self.source_agent_id),
            (3, &self.target_agent_id),
            (4, &self.model_id),
            (13, &self.avp_map_id),
        ];
        let strings: usize =
            strings.iter().filter(|(_, s)| !s.is_empty()).map(|(tag, s)| string::encoded_len(*tag, s)).sum();
        let counts = [(5, self.hidden_dim), (6, self.num_layers)];
        let counts: usize =
            counts.iter().filter(|(_, n)| *n != 0).map(|(tag, n)| uint32::encoded_len(*tag, n)).sum();
        let enums: usize =
            self.enums().iter().filter(|(_, n)| *n != 0).map(|(tag, n)| int32::encoded_len(*tag, n)).sum();
        strings
            + counts
            + enums
            + uint32::encoded_len_packed(9, &self.tensor_shape)
            + self.compression.as_ref().map_or(0, |name| string::encoded_len(11, name))
            + extra_len(&self.extra)
            + self.payload_checksum.map_or(0, |crc| uint32::encoded_len(15, &crc))
    }

    /// Writes the protobuf message.
    ///
    /// # Panics
    /// If `buf` has less room than [`encoded_len`](Self::encoded_len) and does not grow.
    pub fn encode(&self, buf: &mut impl BufMut) {
        let [payload_type, dtype, mode] = self.enums();
        put_string(1, &self.session_id, buf);
        put_string(2, &self.source_agent_id, buf);
        put_string(3, &self.target_agent_id, buf);
        put_string(4, &self.model_id, buf);
        put_u32(5, self.hidden_dim, buf);
        put_u32(6, self.num_layers, buf);
        put_enum(payload_type, buf);
        put_enum(dtype, buf);
        uint32::encode_packed(9, &self.tensor_shape, buf);
        put_enum(mode, buf);
        if let Some(name) = &self.compression {
            string::encode(11, name, buf);
        }
        put_string(13, &self.avp_map_id, buf);
        put_extra(14, &self.extra, buf);
        if let Some(crc) = &self.payload_checksum {
            uint32::encode(15, crc, buf);
        }
    }

    /// The protobuf message.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.encode(&mut out);
        out
    }

    fn enums(&self) -> [(u32, i32); 3] {
        [(7, self.payload_type.number()), (8, self.dtype.number()), (10, self.mode.number())]
    }
}

fn put_string(tag: u32, value: &String, buf: &mut impl BufMut) {
    if !value.is_empty() {
        string::encode(tag, value, buf);
    }
}

fn put_u32(tag: u32, value: u32, buf: &mut impl BufMut) {
    if value != 0 {
        uint32::encode(tag, &value, buf);
    }
}

fn put_enum((tag, value): (u32, i32), buf: &mut impl BufMut) {
    if value != 0 {
        int32::encode(tag, &value, buf);
    }
}

/// Map entries with both fields written, also where they are empty: what the reference peer does, and unlike
/// prost's own maps.
pub(crate) fn put_extra(tag: u32, extra: &BTreeMap<String, String>, buf: &mut impl BufMut) {
    for (key, value) in extra {
        encode_key(tag, WireType::LengthDelimited, buf);
        encode_varint(varint_len(entry_len(key, value)), buf);
        string::encode(1, key, buf);
        string::encode(2, value, buf);
    }
}

pub(crate) fn extra_len(extra: &BTreeMap<String, String>) -> usize {
    extra
        .iter()
        .map(|(key, value)| {
            let len = entry_len(key, value);
            1 + encoded_len_varint(varint_len(len)) + len
        })
        .sum()
}

fn entry_len(key: &String, value: &String) -> usize {
    string::encoded_len(1, key) + string::encoded_len(2, value)
}

fn varint_len(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
