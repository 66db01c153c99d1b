//! For protocol implementers: a KV cache as a frame, written and read back.
//!
//! `cargo run --release -p avp-wire --example frame`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::io::Write;

use avp_wire::{
    BufferPool, EncodeOptions, Frame, FrameHead, Header, KvDtype, KvHeader, Limits, Metadata, PayloadType,
};

fn main() -> Result<(), Box<dyn Error>> {
    // The engine writes its tensors straight into a recycled, aligned buffer, behind the KV header.
    let pool = BufferPool::new(64 << 20);
    let header = KvHeader { num_layers: 2, num_kv_heads: 2, head_dim: 4, seq_len: 3, dtype: KvDtype::F32 };
    let mut buffer = pool.get(header.payload_len()?, KvHeader::SIZE);
    for (i, element) in header.write_to(&mut buffer)?.chunks_exact_mut(4).enumerate() {
        element.copy_from_slice(&(i as f32).to_le_bytes());
    }

    // A frame is a small head and that buffer; a vectored write sends both.
    let metadata = Metadata {
        model_id: "example".into(),
        num_layers: header.num_layers,
        payload_type: PayloadType::KvCache,
        dtype: header.dtype.into(),
        ..Metadata::default()
    };
    let encoded = Frame::new(metadata, buffer.freeze()).encode(&EncodeOptions::default())?;
    let mut wire = Vec::new();
    wire.write_all(&encoded.head)?;
    wire.write_all(&encoded.payload)?;
    println!("{} bytes, of which {} are header and metadata", wire.len(), encoded.head.len());

    // The receiver judges the head before it takes the payload.
    let limits = Limits::default();
    let header_length = Header::decode(&wire, &limits)?.metadata_length;
    let head = FrameHead::decode(&wire, &limits)?;
    println!("{header_length} bytes of metadata: {:?}", head.metadata);
    let start = wire.len() - head.payload_len_on_wire() as usize;
    let frame = head.into_frame(wire.split_off(start).into(), &limits)?;

    let kv = frame.kv()?;
    println!("{:?}, K of layer 1 has {} bytes", kv.header(), kv.k(1).ok_or("no layer 1")?.len());
    Ok(())
}
